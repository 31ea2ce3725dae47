"""Extras: those that messages and documents name are those of pyproject.toml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captionkit.cli import main as command_line
from captionkit.data import image_extras

ROOT = Path(__file__).parents[2]
#: extras of 0.1 that pip still takes and that nothing names any more
FORMER = {"adapters", "datasets", "export", "optimizers", "sweep"}
_INSTALL = re.compile(r"(?:captionkit|\.)\[([a-z][a-z,-]*)\]")

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def extras(project: dict[str, Any]) -> dict[str, list[str]]:
    return project["project"]["optional-dependencies"]


def texts() -> list[Path]:
    """Return what is read by users and developers: sources, documents and the workflows."""
    files = [path for folder in ("src", "docs", ".github") for path in (ROOT / folder).rglob("*")]
    chosen = [path for path in files if path.suffix in (".py", ".md", ".yml", ".html")]
    return [*chosen, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Dockerfile", ".ci/run"))]


def closure(extras: dict[str, list[str]], name: str) -> set[str]:
    """Return the packages that an extra installs, those of the extras that it names included."""
    found: set[str] = set()
    for requirement in extras[name]:
        own = _INSTALL.match(requirement)
        found |= set().union(*(closure(extras, one) for one in own[1].split(","))) if own else {requirement}
    return found


def test_every_extra_that_is_named_with_pip_exists_and_is_no_former_name(extras: dict[str, list[str]]) -> None:
    named = {
        (path.name, name)
        for path in texts()
        for listed in _INSTALL.findall(path.read_text(encoding="utf-8"))
        for name in listed.split(",")
    }
    assert len(named) > 20
    assert {pair for pair in named if pair[1] not in extras or pair[1] in FORMER} == set()


def test_every_command_and_image_format_names_an_extra_that_exists(extras: dict[str, list[str]]) -> None:
    parser = command_line._parser([])
    commands = next(action for action in parser._actions if hasattr(action, "choices") and action.choices)
    named = {command.get_default("extra") for command in commands.choices.values()} | set(image_extras._PACKAGES)
    assert {"train", "serve", "bulk", "metadata", "plot", "heif"} <= named
    assert named - {""} <= set(extras) - FORMER


def test_the_extra_of_training_also_exports_and_sweeps(extras: dict[str, list[str]]) -> None:
    packages = {re.split(r"[<>=;]", requirement)[0] for requirement in closure(extras, "train")}
    assert {"torch", "onnx", "onnxscript", "optuna", "matplotlib"} <= packages
    assert {closure(extras, name) == closure(extras, "train") for name in ("export", "sweep", "optimizers")} == {True}


def test_all_is_every_extra_but_those_for_clusters_for_development_and_of_other_builds(
    extras: dict[str, list[str]],
) -> None:
    left_out = {"all", "dev", "dev-page", "docs", "space", "ray", "timm", "adapters"}
    assert closure(extras, "all") == set().union(*(closure(extras, name) for name in extras.keys() - left_out))
    assert closure(extras, "all") < closure(extras, "dev")


def test_the_dependency_groups_are_the_extras_of_development(project: dict[str, Any]) -> None:
    assert project["dependency-groups"] == {name: [f"captionkit[{name}]"] for name in ("dev", "dev-page")}


def test_plot_needs_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    row = {"kind": "eval", "step": 1, "epoch": 1.0, "val_loss": 3.0, "cider": 0.2, "best": True}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    absent = ("torch", "accelerate", "transformers", "pydantic", "onnx", "optuna", "safetensors", "tomli_w")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from captionkit.cli.main import main
sys.exit(main(["plot", {str(tmp_path)!r}, "--output", {str(tmp_path / "c.png")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
