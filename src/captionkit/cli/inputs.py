"""Resolve command-line arguments to images: files, folders, tar shards, glob patterns, pipes and standard input."""

from __future__ import annotations

import errno
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from captionkit.data.image_extras import missing_extra
from captionkit.data.images import MAX_BYTES, SUFFIXES, UNOPENED, url_problem
from captionkit.data.layouts import Problem, shards
from captionkit.data.path_list import read_piped
from captionkit.errors import CaptionkitError
from captionkit.utils import paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.paths import PLAIN_SUFFIXES

_LOOKED_FOR = f"{', '.join(PLAIN_SUFFIXES)}, HEIC and camera raw"
_NAMED = 10  # images listed in one message


@dataclass(frozen=True)
class Input:
    """An image to caption, or the reason why it cannot be captioned.

    root: the folder in which it was found. kept: whether it has a text that stays, and needs no caption.
    """

    name: str
    source: str | bytes | ArchiveMember = ""
    error: str = ""
    root: str = ""
    kept: bool = False

    @property
    def passed_over(self) -> bool:
        """Return whether the model does not see it."""
        return bool(self.error) or self.kept


def find_inputs(named: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[Input]:
    """Yield the images that `named` stands for, in order, at least one Input per name; `-` is standard input.

    Standard input is one image or a list of paths. What cannot be read becomes an Input with an error.
    """
    for name in named:
        if name == "-":
            yield from _from_stdin(stdin or getattr(sys.stdin, "buffer", None))
        else:
            yield from _from_name(name)


def _from_name(name: str) -> Iterator[Input]:
    if problem := url_problem(name):  # before its ? turns it into a pattern
        yield Input(paths.shown(name), error=f"{paths.shown(name)}: {problem}")
        return
    try:
        kind = paths.kind_of(name)
        if kind == "folder":
            yield from _from_folder(name)
        elif kind == "pipe":  # keep its bytes: drawing the attention needs the image again
            yield _image(name, paths.read_pipe(name, limit=MAX_BYTES + 1))
        elif kind is None and glob.has_magic(name):
            yield from _from_pattern(name)
        elif kind == "file" and name.lower().endswith(".tar"):
            yield from _from_shard(name)
        else:
            yield Input(name, name)
    except CaptionkitError as error:
        yield Input(name, error=str(error))


def _from_folder(name: str) -> Iterator[Input]:
    """Yield the images at any depth, sorted by path, then the reasons why others cannot be captioned."""
    found: list[str] = []
    unopened: Counter[str] = Counter()
    closed: dict[str, list[str]] = {}
    problems: list[Input] = []
    for entry in _files(name):
        suffix = os.path.splitext(entry)[1].lower() if isinstance(entry, str) else ""  # noqa: PTH122
        if isinstance(entry, OSError):
            problems.append(Input(entry.filename, error=paths.unreadable(entry.filename, entry)))
        elif extra := missing_extra(suffix):
            closed.setdefault(extra, []).append(entry)
        elif suffix in SUFFIXES:
            found.append(entry)
        elif suffix in UNOPENED:
            unopened[suffix] += 1
    problems += [Input(name, error=_without_extra(name, extra, closed[extra])) for extra in sorted(closed)]
    if unopened:
        problems.append(Input(name, error=_passed_over(name, unopened)))
    if not found and not problems:
        problems.append(Input(name, error=f"{paths.shown(name)}: no images in this folder; looked for {_LOOKED_FOR}"))
    yield from (Input(path, path, root=name) for path in sorted(found))
    yield from problems


def _without_extra(folder: str, extra: str, entries: list[str]) -> str:
    """Return the message for the images of a folder that an extra which is not installed would open."""
    names = sorted(os.path.relpath(entry, folder) for entry in entries)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"{paths.shown(folder)}: {len(names)} {'image needs' if len(names) == 1 else 'images need'} the extra {extra} "
        f"({', '.join(map(paths.shown, names[:_NAMED]))}{more}); `pip install 'captionkit[{extra}]'` opens "
        f"{'it' if len(names) == 1 else 'them'}"
    )


def _passed_over(folder: str, unopened: Counter[str]) -> str:
    counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unopened.items()))
    ways: dict[str, list[str]] = {}
    for suffix in sorted(unopened):
        ways.setdefault(UNOPENED[suffix], []).append(suffix)
    hints = ", ".join(f"{' '.join(suffixes)} with {way}" for way, suffixes in ways.items())
    return (
        f"{paths.shown(folder)}: passed over {unopened.total()} images of kinds that are not opened ({counted}); "
        f"convert them to JPEG: {hints}"
    )


def _files(root: str) -> Iterator[str | OSError]:
    """Yield the paths of all files under a folder, following links, and the errors of folders that cannot be read.

    Names that begin with a dot are skipped: thumbnails, trash and the files that macOS writes beside others. Each
    folder is entered once, and linked folders last, so that a loop of links ends.
    """
    entered: set[tuple[int, int]] = set()
    folders, linked = [root], list[str]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            yield error
            continue
        for entry in listed:
            try:
                if not entry.is_dir():
                    yield entry.path
                elif entry.is_symlink():
                    linked.append(entry.path)
                else:
                    folders.append(entry.path)
            except OSError as error:  # a loop of links, which is no folder, or a target without access
                yield entry.path if error.errno == errno.ELOOP else error


def _from_pattern(pattern: str) -> Iterator[Input]:
    """Yield what a glob pattern matches, as if the shell had expanded it; with `**`, files only, at any depth.

    Folders on the way that cannot be read become Inputs with an error.
    """
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    everywhere = "**" in pattern
    matches = [match for match in found if not (everywhere and Path(match).is_dir())]
    root = _fixed_part(pattern)
    for match in matches:
        yield from (given if given.root else replace(given, root=root) for given in _from_name(match))
    closed = _closed_folders(pattern)
    yield from closed
    if not matches and not closed:
        yield Input(pattern, error=f"{paths.shown(pattern)}: no file matches this pattern; check it")


def _fixed_part(pattern: str) -> str:
    """Return the folder that a pattern starts from: what precedes its first magic component."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)  # noqa: PTH120
    return pattern


def _closed_folders(pattern: str) -> list[Input]:
    """Return Inputs for the folders that a pattern leads into but that cannot be read; glob skips them silently."""
    folders: set[str] = set()
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)  # noqa: PTH120
        folders.update(os.path.normpath(folder) for folder in glob.glob(pattern or ".", recursive=True))  # noqa: PTH207
    closed = []
    for folder in sorted(filter(os.path.isdir, folders)):
        try:
            with os.scandir(folder):
                pass
        except OSError as error:
            closed.append(Input(folder, error=paths.unreadable(folder, error)))
    return closed


def _from_shard(name: str) -> Iterator[Input]:
    try:
        found = list(shards.images_in(Path(name)))
    except OSError as error:
        yield Input(name, error=paths.unreadable(name, error))
        return
    for image in found:
        if isinstance(image, Problem):
            yield Input(name, error=f"{name}: {image.where}: {image.detail}")
        else:
            yield Input(str(image), image)
    if not found:
        yield Input(name, error=f"{name}: no images in this archive; looked for {_LOOKED_FOR}")


def _from_stdin(stream: BinaryIO | None) -> Iterator[Input]:
    if stream is None:
        yield Input("-", error="-: standard input is closed; pipe in an image, or paths one a line")
        return
    try:
        piped = read_piped(stream)
        if isinstance(piped, bytes):
            yield _image("-", piped)
            return
        empty = True
        for path in piped:
            empty = False
            yield _listed(path)
        if empty:
            yield Input("-", error="-: standard input is empty; pipe in an image, or paths one a line")
    except OSError as error:
        yield Input("-", error=paths.unreadable("-", error))
    except CaptionkitError as error:
        yield Input("-", error=str(error))


def _listed(path: str) -> Input:
    try:
        paths.kind_of(path)
    except CaptionkitError as error:
        return Input(path, error=str(error))
    return Input(path, path)


def _image(name: str, content: bytes) -> Input:
    if len(content) > MAX_BYTES:
        return Input(name, error=f"{name}: more than {MAX_BYTES >> 20} MB; give a smaller image")
    return Input(name, content)
