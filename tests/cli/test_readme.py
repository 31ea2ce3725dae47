"""What the README shows is run as printed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from captionkit.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


DOCS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, *texts: str) -> list[str]:
    return [block for text in texts or (README,) for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


@pytest.fixture
def desk(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README's examples name."""
    for name in ("photo.jpg", "a.jpg", "holiday/one.jpg", "holiday/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "one.jpg", tmp_path / name)
    (tmp_path / "b.jpg").write_text("a bad file")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_python_example_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks("python"))
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "(7, 7)" in out
    assert any("b.jpg" in line for line in out.splitlines()), "the bad file is named"


def test_caption_examples_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in "".join(blocks("sh")).splitlines() if line.startswith("captionkit caption photo")]
    lines += [line for line in "".join(blocks("sh")).splitlines() if line.startswith("captionkit caption holiday")]
    lines = [line for line in lines if "--model" not in line]
    assert len(lines) >= 4
    for line in lines:
        assert cli.main(shlex.split(line.partition("#")[0])[1:]) == 0
        assert capsys.readouterr().out.strip()
    assert (desk / "why.png").exists()
    assert (desk / "captions.csv").exists()


def test_other_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `captionkit` line is one that the command line understands."""
    shown = "".join(blocks("sh", README, *DOCS)).replace("\\\n", " ")
    lines = [line.partition("#")[0] for line in shown.splitlines() if line.startswith("captionkit ")]
    assert {shlex.split(line)[1] for line in lines} >= {"caption", "inspect", "train", "evaluate", "score"}
    for line in lines:
        words = shlex.split(line)[1:]
        assert cli._parser(words).parse_args(words).command


def test_python_of_the_evaluation_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    exec(compile("\n".join(blocks("python", guide)), "evaluation.md", "exec"), {})
    assert "CIDEr-D" in capsys.readouterr().out


def test_links_of_the_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_two_set_up_commands() -> None:
    assert len([line for line in README.splitlines() if line.startswith("pip install ")]) == 2
