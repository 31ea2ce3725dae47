"""The manifest of a run: what it does, and which of its parts are whole.

`manifest.json` says what the run does. `manifest/0000.json` and so on name the parts that are whole, in thousands,
with the sizes and checksums of their files, so that naming a part never takes longer than the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captionkit.bulk.plan import Shard
from captionkit.bulk.store import Store, Written
from captionkit.errors import CaptionkitError
from captionkit.inference.search import Decoding

HEADER = "manifest.json"
_MARK, _FORMAT = "captionkit bulk", 1
_PARTS = 1000  # named in one file
_HELD = 4  # such files held in memory: parts are finished nearly in order
#: kinds of errors that are counted separately in a part, and how much of each is kept
_KINDS, _LONGEST = 20, 160


@dataclass(frozen=True)
class Identity:
    """What must not change between the start of a run and its end. `input_name` is for messages only."""

    model: str
    model_name: str
    decoding: Mapping[str, Any]
    min_confidence: float | None
    format: str
    part_size: int
    batch_size: int
    shard: str
    input_name: str

    def changes(self, now: Identity) -> list[str]:
        """Return what differs in `now`, by name."""
        found = []
        if self.model != now.model:
            found.append(f"model {self.model_name} ({self.model}), now {now.model_name} ({now.model})")
        usual = plain(Decoding())  # of fields that the version which began the run did not have, or that are gone
        for name in {**self.decoding, **now.decoding}:
            before, after = (one.decoding.get(name, usual.get(name)) for one in (self, now))
            if before != after:
                found.append(f"{name} {before!r}, now {after!r}")
        for name, said in (
            ("min_confidence", "--min-confidence"),
            ("format", "--format"),
            ("part_size", "--part-size"),
            ("batch_size", "--batch-size"),
            ("shard", "--shard"),
        ):
            before, after = getattr(self, name), getattr(now, name)
            if before != after:
                found.append(f"{said} {before}, now {after}")
        return found


@dataclass(frozen=True)
class Done:
    """A part that is whole.

    files: what it consists of. images: how many, errors included. errors: how many by kind, and the id of the first.
    digest: of its images' ids and sizes. seconds: the time it took one worker.
    """

    index: int
    files: Mapping[str, Written]
    images: int
    errors: Mapping[str, tuple[int, str]]
    digest: str
    seconds: float

    @property
    def failed(self) -> int:
        """Return the number of images without a caption."""
        return sum(count for count, _ in self.errors.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "index"}

    @classmethod
    def from_dict(cls, index: int, values: Mapping[str, Any]) -> Done:
        """Read what `to_dict` wrote. Raises KeyError, TypeError and ValueError for anything else."""
        named = {str(name): Written(**written) for name, written in values["files"].items()}
        errors = {str(kind): (int(count), str(first)) for kind, (count, first) in values["errors"].items()}
        return cls(index, named, int(values["images"]), errors, str(values["digest"]), float(values["seconds"]))


def plain(decoding: Decoding) -> dict[str, Any]:
    """Return a decoding as the JSON values that it is stored as."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in decoding.to_dict().items()}


def grouped(errors: Iterator[tuple[str, str]]) -> dict[str, tuple[int, str]]:
    """Count errors, given as (kind, id), by kind; beyond a number of kinds, the rest together."""
    found: dict[str, tuple[int, str]] = {}
    for kind, identifier in errors:
        kind = kind[:_LONGEST]
        if kind not in found and len(found) >= _KINDS:
            kind = "other errors"
        count, first = found.get(kind, (0, identifier))
        found[kind] = (count + 1, first)
    return found


@dataclass
class Manifest:
    """The manifest of a run in a store. `images` and `digest` describe the whole input, once it has been listed."""

    store: Store
    identity: Identity
    images: int | None = None
    digest: str = ""
    #: the digest of each part that is whole
    closed: dict[int, str] = field(default_factory=dict)
    _held: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store) -> Manifest | None:
        """Read the manifest of a store; None if it has none. Raises CaptionkitError for anything else of its name."""
        content = store.read(HEADER)
        if content is None:
            return None
        try:
            header = json.loads(content)
            if header["made_by"] != _MARK:
                raise ValueError("another mark")
            if header["version"] > _FORMAT:
                raise CaptionkitError(
                    f"{store.name}/{HEADER}: version {header['version']} is newer than this captionkit reads; run "
                    "`pip install -U captionkit`"
                )
            found = cls(store, Identity(**header["run"]), header["images"], header["digest"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CaptionkitError(
                f"{store.name}/{HEADER}: is no manifest of a bulk run; move it away or name another output"
            ) from None
        found.closed = {done.index: done.digest for done in found.parts()}
        return found

    def save(self) -> None:
        """Write the header. Raises CaptionkitError."""
        header = {
            "made_by": _MARK,
            "version": _FORMAT,
            "run": asdict(self.identity),
            "images": self.images,
            "digest": self.digest,
        }
        self.store.write(HEADER, (json.dumps(header, ensure_ascii=True, indent=1) + "\n").encode())

    def close(self, done: Done) -> None:
        """Name a part as whole. Raises CaptionkitError."""
        chunk = self._chunk_of(done.index)
        self._chunk(chunk)[str(done.index)] = done.to_dict()
        self._write(chunk)
        self.closed[done.index] = done.digest

    def reopen(self, index: int) -> None:
        """Take back that a part is whole. Raises CaptionkitError."""
        chunk = self._chunk_of(index)
        del self._chunk(chunk)[str(index)], self.closed[index]
        self._write(chunk)

    def _write(self, chunk: int) -> None:
        lines = ",\n".join(f'"{index}": {json.dumps(entry)}' for index, entry in self._chunk(chunk).items())
        self.store.write(_name(chunk), f"{{{lines}}}\n".encode())

    def parts(self) -> Iterator[Done]:
        """Yield the parts that are whole, nearly in order. Raises CaptionkitError if the manifest is damaged."""
        chunk = missing = 0
        while missing < _HELD:  # with shares, and several workers, a file may come before the one ahead of it
            found = _parsed(self.store, chunk)
            missing = 0 if found else missing + 1
            for index, entry in found.items():
                yield Done.from_dict(int(index), entry)
            chunk += 1

    def part(self, index: int) -> Done:
        """Return a part that is whole."""
        return Done.from_dict(index, self._chunk(self._chunk_of(index))[str(index)])

    def listed(self, images: int, digest: str) -> None:
        """Note how many images the whole input has. Raises CaptionkitError if it had others before."""
        if (self.images, self.digest) == (images, digest):
            return
        if self.images is not None:
            now = f"{images:,} images, now" if images != self.images else "other images than"
            raise CaptionkitError(
                f"{self.identity.input_name}: the input has changed ({now} {self.images:,} before); caption it into "
                "another output, or start over with --restart"
            )
        self.images, self.digest = images, digest
        self.save()

    def _chunk_of(self, part: int) -> int:
        return part // (_PARTS * Shard.parse(self.identity.shard).of)

    def _chunk(self, chunk: int) -> dict[str, Any]:
        if chunk not in self._held:
            self._held[chunk] = _parsed(self.store, chunk)
            if len(self._held) > _HELD:
                del self._held[min(self._held)]
        return self._held[chunk]

    def remove(self) -> None:
        """Remove the manifest's own files, the header last."""
        chunk = missing = 0
        while missing < _HELD:
            missing = missing + 1 if self.store.read(_name(chunk)) is None else 0
            self.store.remove(_name(chunk))
            chunk += 1
        self.store.remove(HEADER)


def is_header(path: Path) -> bool:
    """Return whether a file is the header of a manifest, from its beginning."""
    with path.open("rb") as file:
        return f'"made_by": "{_MARK}"'.encode() in file.read(100)


def _name(chunk: int) -> str:
    return f"manifest/{chunk:04d}.json"


def _parsed(store: Store, chunk: int) -> dict[str, Any]:
    content = store.read(_name(chunk))
    if content is None:
        return {}
    try:
        found = json.loads(content)
        for index, entry in found.items():
            Done.from_dict(int(index), entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CaptionkitError(
            f"{store.name}/{_name(chunk)}: is damaged; remove it, and the parts that it named are captioned again"
        ) from None
    return found
