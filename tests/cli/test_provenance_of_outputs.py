"""What passes for an earlier output and what does not; pipes that nobody reads; closed folders behind patterns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captionkit.errors import CaptionkitError
from captionkit.inference.results import ResultsFile
from captionkit.utils import atomic_write, output_checks

RIGHTS = "-dac_override,-dac_read_search"


@pytest.mark.parametrize(
    ("name", "text", "proof"),
    [
        ("a.jsonl", '{"path": "a.jpg", "captions": ["a dog", "a brown dog"]}\n', output_checks.is_captions),
        ("a.jsonl", '{"path": "a.jpg", "captions": "a dog"}\n', output_checks.is_captions),
        ("a.jsonl", "[" * 100_000, output_checks.is_captions),
        ("a.csv", "x" * 200_000, output_checks.is_captions),
        (
            "a.json",
            '[{"image_id": 1, "caption": "a dog"}, {"image_id": 1, "caption": "a cat"}]',
            output_checks.is_captions,
        ),
        ("a.csv", "image_id,caption,split\n1,a dog,train\n", output_checks.is_image_scores),
        ("a.csv", "image_id,caption,id\n1,a dog,7\n", output_checks.is_image_scores),
        ("a.csv", "image_id,caption,id\n1,a dog\n", output_checks.is_image_scores),
        ("a.csv", "x" * 200_000, output_checks.is_image_scores),
        ("a.log", "[" * 100_000, output_checks.is_journal),
        ("a.json", "[" * 100_000, output_checks.is_scores),
        ("a.tif", "II*\0\x08\0\0\0\xff\xff", output_checks.is_drawing),
        ("a.npz", "PK\x05\x06" + "\xff" * 18, output_checks.is_drawing),
    ],
)
def test_a_file_of_the_user_is_no_earlier_output(
    tmp_path: Path, name: str, text: str, proof: output_checks.Proof
) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(CaptionkitError, match="not written by captionkit"):
        output_checks.check_output_file(tmp_path / name, proof)


def test_scores_of_each_image_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('image_id,caption,CIDEr-D,note\n1,"a dog,\nruns",0.123456,ok\n')
    output_checks.check_output_file(path, output_checks.is_image_scores)
    path.write_text("image_id,caption,CIDEr-D\n")
    output_checks.check_output_file(path, output_checks.is_image_scores)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_that_nobody_reads_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_write, "_PATIENCE", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptionkitError, match="a named pipe that nobody reads"):
        atomic_write.write_bytes(tmp_path / "pipe", b"x")


def test_what_goes_with_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text("{}")

    def fails(*_: object) -> None:
        raise CaptionkitError("no space")

    monkeypatch.setattr(atomic_write, "write_chunks", fails)
    with pytest.raises(CaptionkitError), ResultsFile(tmp_path / "r.json", outdated=[scores]) as results:
        results.add({"path": "a.jpg", "captions": [{"text": "a dog"}]})
    assert scores.exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or (os.geteuid() == 0 and not shutil.which("setpriv")),
    reason="root may enter every folder, and there is no setpriv to take that right away",
)
def test_a_closed_folder_behind_a_pattern_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos" / "closed").mkdir(parents=True)
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "photos" / "closed" / "b.jpg").touch()
    (tmp_path / "photos" / "closed").chmod(0)
    patterns = ["photos/**/*.jpg", "photos/*/*.jpg", "photos/*/b.jpg", "photos/*.jpg"]
    script = (
        "import json, sys; from captionkit.cli.inputs import find_inputs; "
        "print(json.dumps([[[i.name, i.error] for i in find_inputs([p])] for p in sys.argv[1:]]))"
    )
    drop = ["setpriv", f"--inh-caps={RIGHTS}", f"--bounding-set={RIGHTS}"] if os.geteuid() == 0 else []
    try:
        told = subprocess.run(
            [*drop, sys.executable, "-c", script, *patterns], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
    finally:
        (tmp_path / "photos" / "closed").chmod(0o755)
    deep, below, named, plain = json.loads(told)
    assert [name for name, _ in deep] == ["photos/a.jpg", "photos/closed"]
    assert [name for name, _ in below] == [name for name, _ in named] == ["photos/closed"]
    assert all("photos/closed: cannot be read (Permission denied)" in found[-1][1] for found in (deep, below, named))
    assert plain == [["photos/a.jpg", ""]]
