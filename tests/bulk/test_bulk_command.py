"""`captionkit bulk` as users type it, with the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bulk_stub import union
from captionkit.cli.main import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 10 + number).convert("RGB").save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


def test_captions_are_those_of_the_caption_command(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    command = ["bulk", str(images), str(output), "--workers", "1", "--part-size", "4", "--batch-size", "2"]
    assert main(command) == 1  # one is broken
    assert "6 images done" in capsys.readouterr().err
    found = {record["path"]: record for record in map(json.loads, union(output))}
    assert main(["caption", str(images), "--json"]) == 1
    for wanted in map(json.loads, capsys.readouterr().out.splitlines()):
        record = found[wanted["path"]]
        if "error" in wanted:
            assert record["error"] == wanted["error"]
        else:
            [caption] = record["captions"]
            [other] = wanted["captions"]
            assert caption["text"] == other["text"]
            assert caption["confidence"] == pytest.approx(other["confidence"], abs=2e-4)
    assert main([*command, "--max-errors", "1"]) == 0  # nothing to do, and one may fail
    assert main(["inspect", str(output)]) == 1
    shown = capsys.readouterr().out
    assert "6 images in 2 parts of jsonl" in shown and "left        nothing" in shown
    assert main(["inspect", str(output), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["one"], "name one INPUT and one OUTPUT"),
        (["nowhere", "output"], "nowhere: no such file or folder"),
        (["merge", "a"], "captionkit bulk merge SHARE ... OUTPUT"),
        (["merge", "a", "b"], "a: no output of `captionkit bulk`"),
        ([".", "output"], "no images in this folder"),
        ([".", "output", "--part-size", "10"], "use 16"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bulk", *arguments]) == 1
    assert said in (told := capsys.readouterr().err) and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, images: Path) -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = None; sys.modules['fsspec'] = None\n"
        "from captionkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["s3://bucket/x", "out"], [str(images), str(tmp_path / "out"), "--format", "parquet"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "bulk", *arguments], capture_output=True, text=True, env={**os.environ}
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "pip install 'captionkit[bulk]'" in done.stderr


_DOCS = Path(__file__).parents[2] / "docs"


def _documented() -> dict:
    """Return the names that the first example of the document defines."""
    code = (_DOCS / "other-engines.md").read_text().split("```python\n")[1].partition("```")[0]
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.skipif(not _DOCS.is_dir(), reason="without the documents")
def test_the_function_for_other_engines_works(images: Path) -> None:
    pandas = pytest.importorskip("pandas")
    names = _documented()
    frames = iter([pandas.DataFrame({"path": [str(images / "0.png"), str(images / "broken.jpg")]})])
    [frame] = names["caption"](frames)
    assert list(frame) == ["path", "caption", "confidence", "error"]
    good, bad = frame.to_dict("records")
    assert good["caption"] and 0 <= good["confidence"] <= 1 and not good["error"]
    assert pandas.isna(bad["caption"]) and "broken.jpg" in bad["error"]


def test_the_function_for_other_engines_works_in_dask(images: Path) -> None:
    dask = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    names = _documented()
    whole = dask.from_pandas(pandas.DataFrame({"path": [str(images / "0.png")]}), npartitions=1)
    meta = {"path": str, "caption": str, "confidence": float, "error": str}
    done = whole.map_partitions(lambda part: next(names["caption"](iter([part]))), meta=meta).compute()
    assert len(done) == 1 and done["caption"][0]


def test_urls_are_fetched_from_public_addresses_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("httpcore2")
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    command = ["bulk", str(tmp_path / "urls.txt"), str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 1
    assert main([*command, "--restart", "--allow-urls"]) == 1
    [record] = map(json.loads, union(tmp_path / "out"))
    assert record["error"] == "http://127.0.0.1:9/a.jpg: '127.0.0.1' is not a public address; send the image itself"
