"""WebDataset tar shards, as written by webdataset, img2dataset or plain tar: train-000000.tar, 00000.tar, val.tar.

The files of a sample share the part of their names before the first dot: KEY.jpg with KEY.txt or KEY.caption (one
caption per line) or KEY.json (captions under "caption", "text", ...; it has priority).
https://github.com/webdataset/webdataset. The split is taken from the shard's folder or name.

Nothing is unpacked: one pass over a shard's headers locates its images, and each is then read from its offset, in any
order. The result of the pass is cached by the shard's path, size and modification time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, id_of_file, split_of_file, split_of_folder
from captionkit.data.layouts.caption_values import MAX_CAPTIONS, SIDECARS, captions_of_file
from captionkit.data.layouts.tar import walk
from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write, paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.paths import IMAGE_SUFFIXES
from captionkit.utils.progress import progress_bar

LOOKS_FOR = "tar shards, not compressed (train-000000.tar, 00000.tar, val.tar), here or in train/, val/, test/"
_VERSION = 3  # of the cache format
_SHARD = re.compile(r"(.+?)\.(tar|tgz|tar\.(gz|bz2|xz|zst))", re.IGNORECASE)


def detect(place: Place) -> list[Path]:
    """Return the shards, by name; compressed ones only if there are no others, to report them.

    None in a folder of images.
    """
    if place.file:
        named = [place.file] if _SHARD.fullmatch(place.file.name) else []
    else:
        here = sorted(place.root.iterdir())
        if any(path.name.casefold().endswith(IMAGE_SUFFIXES) for path in here):
            return []
        inner = (sorted(folder.iterdir()) for folder in place.split_folders("data"))
        named = [*filter(_numbered, here), *(path for folder in inner for path in folder)]
        named = [path for path in named if _SHARD.fullmatch(path.name) and path.is_file()]
    return [path for path in named if path.suffix.casefold() == ".tar"] or named


def read(place: Place, shards: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of the shards.

    An id is the sample's key, prefixed by its shard's name if repeated.
    """
    taken = set()
    for path in progress_bar(shards, len(shards), "shards"):
        source = place.name(path)
        split = split_of_folder(path.parent.name) or split_of_file(path.stem) or ""
        samples, problems = _contents(path)
        for problem in problems:
            yield Problem(problem.kind, problem.where, f"{source}: {problem.detail}")
        for member, captions in samples:
            key = sample_key(member.name)[0]
            known: int | str = key if "/" in key else id_of_file(key)
            if (split, str(known)) in taken:
                known = f"{path.stem}/{key}"
            taken.add((split, str(known)))
            yield StatedImage(known, member.name, captions, split, source, member=member)


def images_in(path: Path) -> Iterator[ArchiveMember | Problem]:
    """Yield the images in one shard, in its order, without their captions."""
    samples, problems = _contents(path)
    yield from (problem for problem in problems if problem.kind not in ("malformed caption", "missing image"))
    yield from (member for member, _ in samples)


def _numbered(path: Path) -> bool:
    match = _SHARD.fullmatch(path.name)
    return bool(match and (match[1][-1].isdigit() or split_of_file(match[1])))


def sample_key(name: str) -> tuple[str, str]:
    """Split a name into the sample's key and the rest: "dir/a.seg.png" -> ("dir/a", "seg.png")."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.casefold()


Samples = list[tuple[ArchiveMember, list[Any]]]


def _contents(path: Path) -> tuple[Samples, list[Problem]]:
    """Return each image of a shard with its captions, and the problems of the rest; from the cache if possible."""
    status = path.stat()
    facts = repr((_VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns))
    cached = (
        paths.cache_folder() / "shards" / f"{hashlib.sha256(facts.encode('utf-8', 'replace')).hexdigest()[:32]}.json"
    )
    with suppress(OSError, ValueError, TypeError, KeyError):  # missing, or not a valid cache file
        content = json.loads(cached.read_text(encoding="utf-8"))
        samples = [(ArchiveMember(path, *where), captions) for *where, captions in content["samples"]]
        return samples, [Problem(*problem) for problem in content["problems"]]
    samples, problems = _scan(path)
    content = {
        "samples": [(member.name, member.offset, member.size, captions) for member, captions in samples],
        "problems": [(problem.kind, problem.where, problem.detail) for problem in problems],
    }
    with suppress(CaptionkitError):  # an unwritable cache costs time, but is not an error
        atomic_write.write_text(cached, json.dumps(content))
    return samples, problems


@dataclass
class _Sample:
    image: ArchiveMember | None = None
    captions: dict[str, list[Any]] = field(default_factory=dict)


def _scan(path: Path) -> tuple[Samples, list[Problem]]:
    found: dict[str, _Sample] = {}
    problems: list[Problem] = []
    for member in walk(path):
        if isinstance(member, Problem):
            problems.append(member)
            continue
        key, ending = sample_key(member.name)
        is_image = f".{ending}" in IMAGE_SUFFIXES
        if not is_image and f".{ending}" not in SIDECARS:
            continue  # other data: classes, masks, sound
        sample = found.setdefault(key, _Sample())
        if ending in sample.captions or (is_image and sample.image):
            detail = f"a second .{ending} of its sample is left out" if not is_image else "a second image of its sample"
            problems.append(Problem("duplicate key", member.name, detail))
        elif is_image:
            sample.image = member
        else:
            sample.captions[ending] = _captions(member, ending, problems)
    samples = []
    for key, sample in found.items():
        captions = next(filter(None, map(sample.captions.get, ("json", "txt", "caption"))), [])
        if sample.image:
            samples.append((sample.image, captions))
        else:
            problems.append(Problem("missing image", key, f"the shard has no image of it (captions: {len(captions)})"))
    return samples, problems


def _captions(member: ArchiveMember, ending: str, problems: list[Problem]) -> list[Any]:
    if member.size > MAX_CAPTIONS:
        detail = f"{member.size:,} bytes, but captions of an image may have {MAX_CAPTIONS:,}; they are left out"
        problems.append(Problem("malformed caption", member.name, detail))
        return []
    try:
        return captions_of_file(member.read(), f".{ending}")
    except ValueError as error:
        problems.append(Problem("malformed caption", member.name, f"{error}; left out"))
        return []
