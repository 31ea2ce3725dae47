"""Matching candidates with references: by image id, or else by file name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from captionkit.data.layouts.caption_set import base_name, id_of_file, normalize_split
from captionkit.data.layouts.caption_values import TEXTS, is_missing
from captionkit.errors import CaptionkitError
from captionkit.metrics.caption_files import CandidateSet, Id, ImageReferences, ReferenceSet
from captionkit.utils.paths import IMAGE_SUFFIXES

_NAMED = 5  # images listed in a message


def _tail(path: object) -> object:
    """Return the last folder and the name of a path; None, which matches nothing, if it has no folder."""
    parts = str(path).replace("\\", "/").split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 else None


def _path_stem(name: object) -> str:
    """Return a path without the suffix of an image or of its caption file: a/1.jpg.txt, a/1.txt and a/1.jpg are a/1."""
    path = str(name).replace("\\", "/").casefold()
    for suffixes in (TEXTS, IMAGE_SUFFIXES):
        path = next((path.removesuffix(suffix) for suffix in suffixes if path.endswith(suffix)), path)
    return path


def _stem(name: object) -> str:
    return str(id_of_file(str(name))).casefold()


# Strictest first: keys of a candidate's id and of an image with references that must be equal, and the note for it.
_RULES: tuple[tuple[Callable[[Id], object], Callable[[ImageReferences], object], str], ...] = (
    (lambda known: (type(known), known), lambda image: (type(image.id), image.id), ""),
    (str, lambda image: str(image.id), "image ids are text on one side and numbers on the other; matched as text"),
    (_path_stem, lambda image: _path_stem(image.id), ""),
    (_tail, lambda image: _tail(image.name), "candidates are matched with references by folder and file name"),
    (
        lambda known: base_name(str(known)),
        lambda image: base_name(image.name),
        "candidates are matched with references by file name",
    ),
    (
        _stem,
        lambda image: _stem(image.name),
        "candidates are matched with references by the number or stem of the file name",
    ),
    (_stem, lambda image: _stem(image.id), "candidates are matched with references by the number in their image id"),
)


@dataclass(frozen=True)
class Pairs:
    """Candidates with their references, in the references' order; images without a counterpart; and notes."""

    ids: list[Id]
    candidates: list[str]
    references: list[tuple[str, ...]]
    without_references: list[Id]
    without_candidate: list[Id]
    notes: list[str]


def pair(said: CandidateSet, wrote: ReferenceSet, split: str | None = None) -> Pairs:
    """Match candidates with references. Raises CaptionkitError if none match."""
    images, note = _of_split(wrote, split), ""
    said, disagreements = _by_the_right_column(said, images, wrote.origin)
    found, how = _matched(said, images)
    if not found:
        raise CaptionkitError(_nothing_matches(said, wrote, images))
    inside = {images[place].split for place in found}
    if split is None and len(inside) == 1 and len({image.split for image in images}) > 1:
        (only,) = inside
        note = f"all candidates are of split {only!r}, whose references are taken"
        images = [image for image in images if image.split == only]
        found, how = _matched(said, images)
    used = [place for place, image in enumerate(images) if place in found and image.captions]
    taken = {found[place] for place in used}
    pairs = Pairs(
        ids=[images[place].id for place in used],
        candidates=[said.captions[found[place]] for place in used],
        references=[images[place].captions for place in used],
        without_references=[known for known in said.captions if known not in taken],
        without_candidate=[image.id for place, image in enumerate(images) if place not in found and image.captions],
        notes=[text for text in (*disagreements, note, how) if text],
    )
    if not used:
        raise CaptionkitError(f"{wrote.origin}: none of the images that have a candidate has a reference caption")
    pairs.notes.extend(_partial(pairs, said, wrote))
    return pairs


def named(ids: Sequence[Id]) -> str:
    """Return the first few ids, for a message."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(map(str, ids[:_NAMED])) + more


def _of_split(wrote: ReferenceSet, split: str | None) -> list[ImageReferences]:
    images = [image for image in wrote.images if split is None or image.split == normalize_split(split)]
    if wrote.images and not images:
        there = ", ".join(sorted({image.split for image in wrote.images if image.split}))
        reason = f"there is {there}" if there else "these have no splits, leave it out"
        raise CaptionkitError(f"{wrote.origin}: there is no split {split!r}; {reason}")
    twice = [known for known, count in Counter(str(image.id) for image in images).items() if count > 1]
    if twice:
        raise CaptionkitError(f"{wrote.origin}: image ids stand twice ({named(twice)}); name one split, or fix them")
    return images


def _by_the_right_column(
    said: CandidateSet, images: Sequence[ImageReferences], references: str
) -> tuple[CandidateSet, list[str]]:
    """Return the candidates by the column whose ids match the references, and notes on columns that contradict it.

    The likeliest column with at least half the matches of the best is used: row numbers match image ids by chance.
    """
    readings = [said, *said.others]
    matches = [_matched(reading, images)[0] for reading in readings]
    most = max(map(len, matches))
    best = next(place for place, found in enumerate(matches) if 2 * len(found) >= most)
    chosen, found = readings[best], matches[best]
    if chosen.fault:
        raise CaptionkitError(chosen.fault)
    notes = []
    for other, theirs in zip(readings, matches, strict=True):
        against = sum(
            other.captions[theirs[place]] != chosen.captions[found[place]] for place in found if place in theirs
        )
        if found and (against or not theirs):
            what = f"names other images in {against:,} rows" if theirs else "names no image"
            notes.append(
                f"column {other.column!r} {what} of {references}; images are identified by column {chosen.column!r}"
            )
    return chosen, notes


def _matched(said: CandidateSet, images: Sequence[ImageReferences]) -> tuple[dict[int, Id], str]:
    """Return index in `images` -> candidate id, by the strictest rule with at least half the matches of the best rule.

    A looser rule with a few more matches would mix up neighbouring images; ids that match by chance are few.
    """
    tried: list[tuple[dict[int, Id], str]] = []
    for key_of, key_of_image, how in _RULES:
        known = _once((key_of_image(image), place) for place, image in enumerate(images))
        keys = _once((key_of(candidate), candidate) for candidate in said.captions)
        pairs = {known[key]: candidate for key, candidate in keys.items() if key is not None and key in known}
        tried.append((pairs, how))
    most = max(len(found) for found, _ in tried)
    return next((found, how) for found, how in tried if 2 * len(found) >= most)


def _once(pairs: Iterable[tuple[object, object]]) -> dict:
    """Return keys to values without the keys that occur more than once, which are ambiguous."""
    made: dict[object, object] = {}
    twice = set()
    for key, value in pairs:
        if key in made:
            twice.add(key)
        made[key] = value
    return {key: value for key, value in made.items() if key not in twice}


def _nothing_matches(said: CandidateSet, wrote: ReferenceSet, images: Sequence[ImageReferences]) -> str:
    if not said.captions:
        return f"{said.origin}: holds no captions to score"
    if not images:
        return f"{wrote.origin}: holds no references to score against{_first(wrote.problems)}"
    ours, theirs = (", ".join(map(repr, ids)) for ids in (list(said.captions)[:3], [image.id for image in images[:3]]))
    return (
        f"none of the {len(said.captions):,} images of {said.origin} ({ours}, ...) is among the {len(images):,} of "
        f"{wrote.origin} ({theirs}, ...); are they of another split?"
    )


def _partial(pairs: Pairs, said: CandidateSet, wrote: ReferenceSet) -> Iterable[str]:
    lonely, silent = pairs.without_references, pairs.without_candidate
    if lonely:
        total = len(said.captions)
        yield f"{len(lonely):,} of {total:,} candidates have no references and are left out: {named(lonely)}"
    if silent:
        total = len(silent) + len(pairs.ids)
        yield f"{len(silent):,} of {total:,} images with references have no candidate and are left out: {named(silent)}"
    empty = [known for known, text in zip(pairs.ids, pairs.candidates, strict=True) if is_missing(text)]
    if empty:
        yield f"{len(empty):,} captions only stand for a missing value, as 'nan' does: {named(empty)}"
    if wrote.problems:
        yield f"{wrote.origin}: {len(wrote.problems):,} problems{_first(wrote.problems)}"


def _first(problems: Sequence[str]) -> str:
    return f"; the first: {problems[0]}" if problems else ""
