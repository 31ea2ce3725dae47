"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from captionkit.utils.progress import log_to_console


@pytest.fixture(autouse=True)
def _logged() -> Iterator[None]:
    """Print what runs log, as the command line does, so that tests can read it."""
    with log_to_console():
        yield
