"""What the command line names, as pictures: files, folders, tar shards, patterns, and standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from captionkit.datasets import Problem, shards
from captionkit.files import Member
from captionkit.images import MAX_BYTES, SUFFIXES

_SNIFF = 1024


@dataclass(frozen=True)
class Input:
    """A picture to caption, or the reason why there is none."""

    name: str
    source: str | bytes | Member = ""
    error: str = ""


def find_inputs(named: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[Input]:
    """The pictures that `named` stand for, in order; `-` is standard input: a picture, or a list of paths."""
    for name in named:
        if name == "-":
            yield from _from_stdin(stdin or sys.stdin.buffer)
        else:
            yield from _from_name(name)


def _from_name(name: str) -> Iterator[Input]:
    path = Path(name)
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            yield Input(name, error=f"{name}: no pictures in this folder; looked for {', '.join(SUFFIXES)}")
        yield from (Input(path, path) for path in found)
    elif not path.exists() and glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        matches = [Input(match, match) for match in found if Path(match).is_file()]
        yield from matches or [Input(name, error=f"{name}: no file matches this pattern; check it")]
    elif path.suffix.lower() == ".tar" and path.is_file():
        yield from _from_shard(name)
    else:
        yield Input(name, name)


def _from_shard(name: str) -> Iterator[Input]:
    try:
        found = list(shards.pictures(Path(name)))
    except OSError as error:
        yield Input(name, error=f"{name}: cannot be read ({error.strerror}); check its permissions")
        return
    for picture in found:
        if isinstance(picture, Problem):
            yield Input(name, error=f"{name}: {picture.where}: {picture.detail}")
        else:
            yield Input(str(picture), picture)
    if not found:
        yield Input(name, error=f"{name}: no pictures in this archive; looked for {', '.join(SUFFIXES)}")


def _from_stdin(stream: BinaryIO) -> Iterator[Input]:
    """Text is a list of paths, one a line, served as they come; anything else is one picture."""
    start = stream.readline(_SNIFF)
    if not start:
        yield Input("-", error="-: standard input is empty; pipe in a picture, or paths one a line")
        return
    if _is_text(start):
        for line in _lines(start, stream):
            if line.strip():
                yield Input(line, line)
        return
    content = start + stream.read(MAX_BYTES + 1 - len(start))
    if len(content) > MAX_BYTES:
        yield Input("-", error=f"-: more than {MAX_BYTES >> 20} MB on standard input; give a smaller picture")
        return
    yield Input("-", content)


def _lines(start: bytes, stream: BinaryIO) -> Iterator[str]:
    yield (
        (start if start.endswith(b"\n") else start + stream.readline())
        .decode("utf-8", "surrogateescape")
        .rstrip("\r\n")
    )
    for line in stream:
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return text.rstrip("\r\n").isprintable()
