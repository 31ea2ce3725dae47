"""The Space: its app started as a Space starts it, asked by gradio's client; its description; what it installs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captionkit
from extras import require

yaml = pytest.importorskip("yaml")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "space"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require("gradio", "the extra `space` is not installed")
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("space")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    port = _free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, SPACE / "app.py"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=environment | {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"},
        )
    try:
        _wait(process, folder / "log", port)
        yield Client(f"http://127.0.0.1:{port}", verbose=False)
    finally:
        process.terminate()
        process.wait(90)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    """Wait until the page's address can be connected to."""
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_it_captions_for_gradios_client(client: Any, photos: Path) -> None:
    from gradio_client import handle_file

    names = ["one.jpg", "two.png"]
    given = [handle_file(str(photos / name)) for name in names]
    records = client.predict(given, num_captions=2, num_beams=4, maps=True, api_name="/caption")
    model = captionkit.load(threads=1)
    assert [record["name"] for record in records] == names
    for record, name in zip(records, names, strict=True):
        said = model.caption(photos / name, num_captions=2, num_beams=4)
        assert [caption["text"] for caption in record["captions"]] == [said.text, said.alternatives[0].text]
        maps = np.array([word["attention"] for word in record["captions"][0]["words"]])
        assert maps == pytest.approx(np.stack([word.attention for word in said.words]), abs=1e-3)


@pytest.mark.slow
def test_what_is_wrong_is_said(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    bad = tmp_path / "notes.jpg"
    bad.write_text("not an image")
    (record,) = client.predict([handle_file(str(bad))], api_name="/caption")
    assert record["name"] == "notes.jpg"
    assert record["error"].startswith("notes.jpg: not an image of a kind that is opened")
    with pytest.raises(Exception, match="num_captions is 9, but must be <= num_beams"):
        client.predict([handle_file(str(bad))], num_captions=9, api_name="/caption")


@pytest.mark.slow
def test_its_endpoint_is_described(client: Any) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/caption"]
    names = [parameter["parameter_name"] for parameter in endpoints["/caption"]["parameters"]]
    assert names == ["photos", "num_captions", "num_beams", "temperature", "top_p", "maps", "min_confidence", "beam"]


def test_its_description_is_what_the_hub_reads() -> None:
    from huggingface_hub import SpaceCard
    from packaging.requirements import Requirement

    card = SpaceCard((SPACE / "README.md").read_text(encoding="utf-8"))
    said = card.data.to_dict()
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert said["sdk"] == "gradio" and (SPACE / said["app_file"]).is_file()
    assert {said["colorFrom"], said["colorTo"]} <= colours
    assert len(said["short_description"]) <= 60
    (gradio,) = (need for need in map(Requirement, _needs("space")) if need.name == "gradio")
    assert said["sdk_version"] in gradio.specifier
    assert said["python_version"] in ("3.10", "3.11", "3.12")


def test_it_installs_what_the_project_says_and_no_torch() -> None:
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert sorted(listed) == sorted([*_needs(""), *_needs("space")])
    assert not any(line.startswith("torch") for line in listed)


def _needs(extra: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["optional-dependencies"][extra] if extra else project["dependencies"])
