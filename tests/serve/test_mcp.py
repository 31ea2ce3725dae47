"""`captionkit mcp`: asked by the client of the library mcp, in this process and in one of its own."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import captionkit

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.memory import create_connected_server_and_client_session

from captionkit.serve.mcp_server import create_server


@pytest.fixture(scope="module")
def photo(photos: Path) -> Path:
    return photos / "one.jpg"


def asked(model: captionkit.Captioner, *images: Any, allow_urls: bool = False, **more: Any) -> list[Any]:
    """What the tool answers to each image."""

    async def ask() -> list[Any]:
        async with create_connected_server_and_client_session(create_server(model, allow_urls=allow_urls)) as session:
            return [await session.call_tool("caption_image", {"image": image, **more}) for image in images]

    return anyio.run(ask)


def refused(answer: Any) -> str:
    (content,) = answer.content
    assert answer.isError and len(content.text.splitlines()) == 1
    return str(content.text)


def test_the_tool_is_offered(model: captionkit.Captioner) -> None:
    async def look() -> Any:
        async with create_connected_server_and_client_session(create_server(model)) as session:
            return await session.initialize(), await session.list_tools(), await session.call_tool("draw", {})

    started, listed, other = anyio.run(look)
    assert (started.serverInfo.name, started.serverInfo.version) == ("captionkit", captionkit.__version__)
    (tool,) = listed.tools
    assert tool.name == "caption_image" and tool.inputSchema["required"] == ["image"]
    assert tool.annotations.readOnlyHint and "captions" in tool.outputSchema["properties"]
    assert "there is no tool 'draw'" in refused(other)


def test_an_image_by_its_path_its_file_url_and_as_data(
    model: captionkit.Captioner, photo: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a b%20ü.jpg"
    odd.write_bytes(photo.read_bytes())
    data = f"data:image/jpeg;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    best = model.caption(photo)
    for answer in asked(model, str(photo), photo.as_uri(), str(odd), odd.as_uri(), data):
        (content,) = answer.content
        assert not answer.isError and content.text == best.text
        assert answer.structuredContent == {"captions": [{"text": best.text, "confidence": round(best.confidence, 4)}]}


def test_several_captions(model: captionkit.Captioner, photo: Path) -> None:
    (answer,) = asked(model, str(photo), num_captions=5)
    best = model.caption(photo, num_captions=5, num_beams=5)
    assert [one.text for one in answer.content] == [best.text, *(other.text for other in best.alternatives)]
    assert len(answer.structuredContent["captions"]) == 5
    for wrong in (0, 11, "many"):
        assert asked(model, str(photo), num_captions=wrong)[0].isError


def test_what_is_no_image_is_named_in_a_line(model: captionkit.Captioner, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    for given, reason in (
        (str(tmp_path / "none.jpg"), "none.jpg"),
        (str(tmp_path / "note.txt"), "note.txt: not an image"),
        (str(tmp_path), "a folder or device"),
        (str(tmp_path / "pipe"), "pipe"),
        ("data:image/png;base64,aGVsbG8=", "not an image"),
        ("data:image/png;base64", "comma"),
        ("", ""),
        ("https://example.com/a.jpg", "--allow-urls"),
    ):
        (answer,) = asked(model, given)
        assert reason in refused(answer), given


def test_urls_of_this_machine_are_not_fetched(model: captionkit.Captioner) -> None:
    for url in ("http://127.0.0.1:9/a.jpg", "http://localhost/a.jpg", "http://[::1]/a.jpg"):
        assert "not a public address" in refused(asked(model, url, allow_urls=True)[0])


@pytest.mark.slow
def test_a_client_starts_it(model: captionkit.Captioner, photo: Path, tmp_path: Path) -> None:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "captionkit", "mcp"], env=dict(os.environ), cwd=tmp_path
    )

    async def ask() -> Any:
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return await session.call_tool("caption_image", {"image": str(photo)})

    assert anyio.run(ask).content[0].text == model.caption(photo).text


@pytest.mark.slow
def test_an_interrupt_ends_it_though_it_reads() -> None:
    command = [sys.executable, "-m", "captionkit", "mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None and b"everyday" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
