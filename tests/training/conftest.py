"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from captionkit.utils.console import log_to_console

if TYPE_CHECKING:
    from captionkit.training.config.recipe import Recipe


@pytest.fixture(autouse=True)
def _logged() -> Iterator[None]:
    """Print what runs log, as the command line does, so that tests can read it."""
    with log_to_console():
        yield


@pytest.fixture(scope="session")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """The folder of a run on `data` that nothing befell, trained once for each recipe; tests only read it."""
    from captionkit.training.trainer import train

    runs: dict[Recipe, Path] = {}

    def run_of(recipe: Recipe) -> Path:
        if recipe not in runs:
            runs[recipe] = tmp_path_factory.mktemp("uninterrupted") / "run"
            train(data, runs[recipe], recipe)
        return runs[recipe]

    return run_of
