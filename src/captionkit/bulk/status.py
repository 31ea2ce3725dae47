"""What `captionkit inspect` says of a bulk output: what is done, what failed and why, and what the rest would take."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captionkit.bulk.manifest import HEADER, Manifest, is_header
from captionkit.bulk.plan import Shard
from captionkit.bulk.progress import duration
from captionkit.bulk.remote import is_remote
from captionkit.bulk.store import open_store
from captionkit.errors import CaptionkitError
from captionkit.utils import paths

_SHOWN = 10  # kinds of errors


@dataclass(frozen=True)
class BulkReport:
    """A run in numbers. `errors`: kind, number and the first image's id; `left` is None until the input is counted."""

    path: str
    input: str
    model: str
    format: str
    shard: str
    parts: int
    images: int
    failed: int
    left: int | None
    worker_seconds_left: float | None
    bytes: int
    errors: tuple[tuple[str, int, str], ...]
    missing: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Return whether every image has its caption."""
        return not self.failed and not self.missing and self.left == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        share = "" if self.shard == "1/1" else f", share {self.shard}"
        lines = [
            f"bulk run    {self.path}",
            f"input       {self.input}{share}",
            f"model       {self.model}",
            f"done        {self.images:,} images in {self.parts:,} parts of {self.format}, {self.bytes / 1e6:,.1f} MB",
            f"left        {self._left()}",
            f"failed      {self.failed:,}",
        ]
        lines += [f"            {count:,} x {kind} (first: {first})" for kind, count, first in self.errors[:_SHOWN]]
        if len(self.errors) > _SHOWN:
            lines.append(f"            and {len(self.errors) - _SHOWN} more kinds")
        lines += [f"missing     {name}; the next run captions it again" for name in self.missing]
        return "\n".join(lines)

    def _left(self) -> str:
        if self.left is None:
            return "not known; the input has not been listed to its end"
        if not self.left:
            return "nothing"
        if self.worker_seconds_left is None:
            return f"{self.left:,} images"
        return f"{self.left:,} images, {duration(self.worker_seconds_left)} for one worker at the speed so far"


def is_bulk_output(path: str) -> bool:
    """Return whether a path is the output of a bulk run, or an address, which nothing else inspects."""
    return is_remote(path) or (paths.is_file(f"{path}/{HEADER}") and is_header(Path(path) / HEADER))


def inspect_output(path: str) -> BulkReport:
    """Read the manifest of a run. Raises CaptionkitError if there is none."""
    store = open_store(path)
    manifest = Manifest.read(store)
    if manifest is None:
        raise CaptionkitError(f"{path}: no output of `captionkit bulk` (no {HEADER}); check the address")
    there = set(store.names())
    counts: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    images = size = 0
    seconds = 0.0
    missing: list[str] = []
    for done in manifest.parts():
        images += done.images
        seconds += done.seconds
        size += sum(written.bytes for written in done.files.values())
        missing += [name for name in done.files if name not in there]
        for kind, (count, first) in done.errors.items():
            counts[kind] += count
            firsts.setdefault(kind, first)
    left = _left(manifest, images)
    return BulkReport(
        path=path,
        input=manifest.identity.input_name,
        model=f"{manifest.identity.model_name} ({manifest.identity.model})",
        format=manifest.identity.format,
        shard=manifest.identity.shard,
        parts=len(manifest.closed),
        images=images,
        failed=counts.total(),
        left=left,
        worker_seconds_left=None if left is None or not images else round(left * seconds / images, 1),
        bytes=size,
        errors=tuple((kind, count, firsts[kind]) for kind, count in counts.most_common()),
        missing=tuple(missing),
    )


def _left(manifest: Manifest, done: int) -> int | None:
    """Return the images of this share that are not done."""
    if manifest.images is None:
        return None
    shard, size = Shard.parse(manifest.identity.shard), manifest.identity.part_size
    parts = -(-manifest.images // size)
    own = len(range(shard.number - 1, parts, shard.of)) * size
    if parts and shard.has(parts - 1):
        own -= parts * size - manifest.images
    return own - done
