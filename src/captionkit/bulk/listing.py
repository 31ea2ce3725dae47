"""From an input, as the user names it, to its images in an order that is the same every time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from captionkit.bulk import hub, tables
from captionkit.bulk.items import Item, Remote, Url, unopened
from captionkit.bulk.remote import RemoteFile, RemoteMember, file_system, is_remote, is_url, persistently
from captionkit.bulk.tree import File, LocalTree, RemoteTree, Tree, walk
from captionkit.data.images import UNOPENED
from captionkit.data.layouts import Problem, shards
from captionkit.data.layouts.tar import walk as walk_tar
from captionkit.data.layouts.tar import walk_file
from captionkit.data.path_list import read_piped
from captionkit.errors import CaptionkitError
from captionkit.utils import paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.paths import IMAGE_SUFFIXES, PLAIN_SUFFIXES

Kind = Literal["images", "shards", "tables"]

_KINDS: dict[Kind, tuple[str, ...]] = {
    "images": (*IMAGE_SUFFIXES, *UNOPENED),
    "shards": (".tar",),
    "tables": (".parquet",),
}


@dataclass(frozen=True)
class Listing:
    """The images of an input. `items` lists them; `again` says whether it can be called more than once.

    `folder` is the local folder that contains them, if there is one.
    """

    name: str
    items: Callable[[], Iterator[Item]]
    again: bool = True
    folder: Path | None = None


def find(named: str, *, column: str | None = None, stdin: BinaryIO | None = None) -> Listing:
    """Return the listing of an input: a folder, a shard, a table, a list of paths, `-`, `hf:NAME`, or an address.

    `column` names the column of tables that has the images. Raises CaptionkitError if there is nothing of the kind.
    """
    if named == "-":
        stream = stdin or getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise CaptionkitError("-: standard input is closed; pipe in paths, one a line")
        return Listing("-", lambda: _listed(stream, "-"), again=False)
    if named.startswith("hf:") and not is_remote(named):
        dataset = hub.parse(named)
        return Listing(named, lambda: hub.items(dataset, column))
    if is_url(named):
        raise CaptionkitError(f"{paths.shown(named)}: a URL; put it in a list of URLs, and name that with --allow-urls")
    return _at_address(named, column) if is_remote(named) else _at_path(named, column)


def _at_address(named: str, column: str | None) -> Listing:
    system, path = file_system(named)
    if persistently(lambda: system.isfile(path), named):
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in _KINDS["tables"]:
            return Listing(named, lambda: tables.items(Remote(named), named, PurePosixPath(path).name, column))
        if suffix in _KINDS["shards"]:
            return Listing(named, lambda: _shard_items(Remote(named), PurePosixPath(path).name))
        if suffix in _KINDS["images"]:
            raise CaptionkitError(f"{paths.shown(named)}: one file; name the folder of images that it is in")
        return Listing(named, lambda: _remote_list(named))
    tree = RemoteTree(named)
    return Listing(named, _tree_items(tree, column))


def _at_path(named: str, column: str | None) -> Listing:
    kind = paths.kind_of(named)
    if kind is None:
        raise CaptionkitError(f"{paths.shown(named)}: no such file or folder; check the path")
    if kind == "folder":
        return Listing(named, _tree_items(LocalTree(named), column), folder=Path(named))
    if kind == "pipe":  # such as a shell's <(command)
        return Listing(named, lambda: _local_list(named), again=False)
    paths.check_file(named)
    path = Path(named)
    suffix = path.suffix.lower()
    if suffix in _KINDS["shards"]:
        return Listing(named, lambda: _shard_items(path, path.name))
    if suffix in _KINDS["tables"]:
        return Listing(named, lambda: tables.items(named, named, path.name, column))
    if suffix in _KINDS["images"]:
        raise CaptionkitError(f"{paths.shown(named)}: one image; caption it with `captionkit caption`")
    return Listing(named, lambda: _local_list(named))


def _tree_items(tree: Tree, column: str | None) -> Callable[[], Iterator[Item]]:
    """Return the function that lists a folder. Raises CaptionkitError, now, if it has nothing to caption."""
    kind = _kind(tree)
    if kind is None:
        raise CaptionkitError(
            f"{paths.shown(tree.root)}: no images in this folder; looked for {', '.join(PLAIN_SUFFIXES)}, HEIC and "
            "camera raw, .tar and .parquet"
        )
    if kind == "images":
        return lambda: _images(tree)
    return lambda: _containers(tree, kind, column)


def _kind(tree: Tree) -> Kind | None:
    """Return what the first folder that has any of them has: images before shards before tables."""
    waiting, entered = [""], set[int]()
    while waiting:
        folder = waiting.pop(0)
        found = set[Kind]()
        try:
            for entry in tree.entries(folder):
                if entry.folder and entry.identity not in entered:
                    entered.update({entry.identity} - {0})
                    waiting.append(f"{folder}/{entry.name}" if folder else entry.name)
                elif not entry.folder:
                    found.update(kind for kind, suffixes in _KINDS.items() if _suffix(entry.name) in suffixes)
                    if "images" in found:
                        return "images"
        except OSError as error:
            if not folder:
                raise CaptionkitError(paths.unreadable(tree.root, error)) from None
        if found:
            return min(found)  # "shards" before "tables"
    return None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path would not take every name


def _images(tree: Tree) -> Iterator[Item]:
    """Yield the images of a folder. Of several with one stem, the first has the plain name for its caption's file."""
    before = ""
    for file in walk(tree):
        suffix = _suffix(file.path)
        if file.error or suffix in _KINDS["images"]:
            stem = file.path[: len(file.path) - len(suffix)]
            sidecar = f"{file.path if stem == before else stem}.txt"
            before = stem
            yield _image(tree, file, suffix, sidecar)


def _image(tree: Tree, file: File, suffix: str, sidecar: str) -> Item:
    address = tree.address(file.path)
    error = file.error or (unopened(address, suffix) if suffix in UNOPENED else "")
    return Item(file.path, address, tree.place(file.path), file.size, error, sidecar)


def _containers(tree: Tree, kind: Kind, column: str | None) -> Iterator[Item]:
    for file in walk(tree):
        address = tree.address(file.path)
        if file.error:
            yield Item(file.path, address, b"", file.size, file.error)
        elif _suffix(file.path) in _KINDS[kind]:
            place = tree.place(file.path)
            assert isinstance(place, str | Remote)
            if kind == "shards":
                yield from _shard_items(place if isinstance(place, Remote) else Path(place), file.path)
            else:
                yield from tables.items(place, address, file.path, column)


def _shard_items(shard: Path | Remote, name: str) -> Iterator[Item]:
    """Yield the images of a shard, whose samples are runs of files with one key; what is wrong becomes an error."""
    keys = set[int]()
    problems = 0
    address = shard.address if isinstance(shard, Remote) else str(shard)
    for sample in _samples(shard):
        if isinstance(sample, Problem):
            problems += 1
            error = f"{address}: {sample.where}: {sample.detail}"
            yield Item(f"{name}#problem-{problems}", address, b"", 0, error)
            continue
        images = [member for member in sample if f".{shards.sample_key(member.name)[1]}" in IMAGE_SUFFIXES]
        if not images:
            continue
        image, key = images[0], shards.sample_key(images[0].name)[0]
        error = "" if hash(key) not in keys else f"{image}: a second image of its sample; name it otherwise"
        keys.add(hash(key))
        identifier = f"{name}/{image.name}" + (f"#{image.offset}" if error else "")
        extras = tuple(member for member in sample if member is not image)
        yield Item(identifier, str(image), image, image.size, error, f"{name}/{key}.txt", extras)


def _members(shard: Path | Remote) -> Iterator[ArchiveMember | RemoteMember | Problem]:
    if isinstance(shard, Path):
        yield from walk_tar(shard)
        return
    with RemoteFile(shard.address) as file:
        for member in walk_file(Path(PurePosixPath(shard.address).name), file):
            if isinstance(member, Problem):
                yield member
            else:
                yield RemoteMember(shard.address, member.name, member.offset, member.size)


def _samples(shard: Path | Remote) -> Iterator[list[ArchiveMember | RemoteMember] | Problem]:
    sample, key = list[ArchiveMember | RemoteMember](), ""
    try:
        for member in _members(shard):
            if isinstance(member, Problem):
                yield member
                continue
            if (name := shards.sample_key(member.name)[0]) != key and sample:
                yield sample
                sample = []
            key = name
            sample.append(member)
    except OSError as error:
        name = shard.address if isinstance(shard, Remote) else shard.name
        yield Problem("unreadable shard", name, f"cannot be read ({error.strerror}); check its disk")
    if sample:
        yield sample


def _local_list(named: str) -> Iterator[Item]:
    try:
        with _open_list(named) as stream:
            yield from _listed(stream, named)
    except OSError as error:
        raise CaptionkitError(paths.unreadable(named, error)) from None


def _open_list(named: str) -> BinaryIO:
    """Open a file, or a pipe without waiting for someone to write to it; one without a writer is empty."""
    descriptor = os.open(named, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def _remote_list(named: str) -> Iterator[Item]:
    system, path = file_system(named)
    with persistently(lambda: system.open(path, "rb"), named) as stream:
        yield from _listed(stream, named)


def _listed(stream: BinaryIO, named: str) -> Iterator[Item]:
    """Yield the images of a list of paths, addresses and URLs."""
    piped = read_piped(stream)
    if isinstance(piped, bytes):
        raise CaptionkitError(f"{paths.shown(named)}: not a list of paths; name a text file with one path a line")
    yield from map(_from_line, piped)


def _from_line(path: str) -> Item:
    if is_url(path):
        return Item(path, path, Url(path), 0, sidecar=_sidecar(path.partition("://")[2].partition("?")[0]))
    if is_remote(path):
        return Item(path, path, Remote(path), 0, sidecar=_sidecar(path.partition("://")[2]))
    try:
        size = os.stat(path).st_size  # noqa: PTH116 - an empty Path is the current folder
    except (OSError, ValueError):
        size = -1  # reading it says why
    return Item(path, path, path, size, sidecar=_sidecar(path))


def _sidecar(path: str) -> str:
    """Return the path of a caption's text file within the output: as the image's, without what leads out of it."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return str(PurePosixPath(*parts).with_suffix(".txt")) if parts else ""
