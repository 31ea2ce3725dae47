"""`captionkit completion`, asked by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("shtab", reason="the extra `completion` is not installed")
pytest.importorskip("pydantic", reason="the extra `train` is not installed")

from captionkit.cli.main import main

_BASH = """
source ./script
read -ra COMP_WORDS <<< "$1"; [[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=$1; COMP_POINT=${#1}
_shtab_captionkit captionkit "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "photo.jpg").write_bytes(b"")
    (folder / "photos").mkdir()
    return folder


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_completes_commands_options_choices_and_files(folder: Path, capsys: Any) -> None:
    (folder / "script").write_text(script("bash", capsys))

    def offered(line: str) -> set[str]:
        done = subprocess.run(["bash", "--norc", "-c", _BASH, "bash", line], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and "not found" not in done.stderr, done.stderr
        return set(done.stdout.split())

    assert offered("captionkit ca") == {"caption", "calibrate"}
    assert offered("captionkit caption --num-b") >= {"--num-beams", "--num-beam-groups"}
    assert "--beam" not in offered("captionkit caption --b"), "an old name"
    assert "--optimizer.name" in offered("captionkit train --optim")
    assert offered("captionkit caption --precision f") == {"fp16", "fp32"}
    assert offered("captionkit caption pho") == offered("captionkit caption --model pho") == {"photo.jpg", "photos"}
    assert offered("captionkit completion ") >= {"bash", "zsh", "fish"}


@pytest.mark.parametrize(("shell", "check"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_other_shells_read_their_script(folder: Path, capsys: Any, shell: str, check: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    place = folder / f"script.{shell}"
    place.write_text(script(shell, capsys))
    done = subprocess.run([shell, check, place], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    if shell == "fish":
        asked = f"source {place}; complete -C 'captionkit ca'; complete -C 'captionkit caption --num-b'"
        told = subprocess.run(["fish", "--no-config", "-c", asked], capture_output=True, text=True, cwd=folder).stdout
        assert {line.split("\t")[0] for line in told.splitlines()} >= {"caption", "calibrate", "--num-beams"}


def test_another_shell_is_refused_in_a_line(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "cmd"])
    assert len(capsys.readouterr().err.splitlines()) == 1
