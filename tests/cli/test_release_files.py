"""What a release rests on: lowest versions as in pyproject.toml, workflows that are valid, the version everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import captionkit

yaml = pytest.importorskip("yaml")
requirements = pytest.importorskip("packaging.requirements")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: of development, or built on torch, of which old versions for CPUs are on no package index
LEFT_OUT = {"train", "timm", "ray", "space", "docs", *(name for name in EXTRAS if name.startswith("dev"))}


def lines(name: str) -> list[str]:
    """Read the lines of a file of requirements, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    lowest: dict[str, str] = {}
    for listed in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS.keys() - LEFT_OUT)):
        for requirement in map(requirements.Requirement, listed):
            if requirement.name != "captionkit":
                (version,) = (part.version for part in requirement.specifier if part.operator == ">=")
                lowest[requirement.name.lower()] = version
    assert sorted(lines("constraints-minimum.txt")) == sorted(f"{name}=={version}" for name, version in lowest.items())


@pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")
def test_workflows_are_valid() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_actions_and_may_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for used in re.findall(r"uses: *(.*)", text):
        assert re.fullmatch(r"\./\S+|[\w./-]+@[0-9a-f]{40} # v[\d.]+", used), used
    workflow: dict[str, Any] = yaml.safe_load(text)
    granted = workflow["permissions"]
    assert granted in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job or "uses" in job, name
        writes = {what for what, how in job.get("permissions", granted).items() if how == "write"}
        assert len(writes) <= 2, f"{name} may write {writes}"
        runs = " ".join(step.get("run", "") for step in job.get("steps", []))
        assert "github.event." not in runs and "github.head_ref" not in runs, f"{name} runs what a stranger wrote"


def test_files_agree_on_the_version() -> None:
    version = captionkit.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.search(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert dated and changelog.index("## [Unreleased]") < dated.start()
    assert f"\n[{version}]: https://" in changelog
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version and str(citation["date-released"]) == dated[1]
