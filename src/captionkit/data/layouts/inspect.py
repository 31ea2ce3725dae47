"""Dataset inspection: contents and problems."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from captionkit.data.layouts.caption_set import CaptionSet, Dataset, Example, Problem
from captionkit.errors import ImageError, TokenizerError
from captionkit.utils.archive import ArchiveMember

_NAMES_SHOWN = 5
_BINS_SHOWN = 9


@dataclass(frozen=True)
class Spread:
    """The distribution of a count; all 0 if there is nothing to count."""

    min: int
    median: float
    mean: float
    p95: float
    max: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> Spread:
        values = np.asarray(counts if len(counts) else [0])
        median, p95 = np.percentile(values, [50, 95])
        return cls(int(values.min()), float(median), float(values.mean()), float(p95), int(values.max()))


@dataclass(frozen=True)
class SplitReport:
    """One split in numbers.

    lengths: number of captions by number of words. classes: number of images by class.
    """

    images: int
    captions: int
    captions_per_image: Spread
    words_per_caption: Spread
    lengths: dict[int, int]
    classes: dict[str, int]


@dataclass(frozen=True)
class DatasetReport:
    """The result of `inspect_dataset`; str() is readable, to_dict() gives JSON values.

    vocabulary: number of distinct words in all splits, counted by the word-level tokenizer of
        captionkit.data.tokenizer: lower-cased, without punctuation, a Chinese or Japanese character a word.
    seen_once: the share of the vocabulary that occurs once.
    shared_images: file name -> the splits that contain it.
    problems: those of the dataset, and its broken images if they were checked.
    """

    name: str
    root: str
    layout: str
    splits: dict[str, SplitReport]
    vocabulary: int
    seen_once: float
    shared_images: dict[str, list[str]]
    problems: list[Problem]
    images_checked: bool

    @property
    def sound(self) -> bool:
        """Return whether everything in the dataset could be used; images shared between splits do not count."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, with every problem, by kind."""
        kinds: dict[str, list[dict[str, str]]] = defaultdict(list)
        for problem in self.problems:
            kinds[problem.kind].append({"where": problem.where, "detail": problem.detail})
        return {**asdict(self), "problems": dict(kinds)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def inspect_dataset(dataset: Dataset, *, check_images: bool = False) -> DatasetReport:
    """Count the contents of `dataset`; `check_images` also opens every image, which takes time, to find broken ones."""
    lengths, vocabulary, once = _count_words(dataset)
    return DatasetReport(
        name=dataset.root.name,
        root=str(dataset.root),
        layout=dataset.layout,
        splits={split: _split_report(examples, lengths[split]) for split, examples in dataset.items()},
        vocabulary=vocabulary,
        seen_once=once / vocabulary if vocabulary else 0.0,
        shared_images=_shared_images(dataset),
        problems=[*dataset.problems, *(_broken_images(dataset) if check_images else ())],
        images_checked=check_images,
    )


def _split_report(examples: CaptionSet, lengths: list[int]) -> SplitReport:
    return SplitReport(
        images=len(examples),
        captions=len(lengths),
        captions_per_image=Spread.of([len(example.captions) for example in examples]),
        words_per_caption=Spread.of(lengths),
        lengths=dict(sorted(Counter(lengths).items())),
        classes=dict(sorted(Counter(example.label for example in examples if example.label).items())),
    )


def _count_words(dataset: Dataset) -> tuple[dict[str, list[int]], int, int]:
    """Return (words of each caption by split, distinct words, words seen once)."""
    from captionkit.data.tokenizer import Tokenizer  # loads the tokenizers library

    captions = {
        split: [line for example in examples for line in example.captions] for split, examples in dataset.items()
    }
    lengths: dict[str, list[int]] = {split: [] for split in captions}
    if not any(captions.values()):
        return lengths, 0, 0
    try:
        tokenizer = Tokenizer.train(chain.from_iterable(captions.values()), min_frequency=1)
    except TokenizerError:  # nothing but punctuation
        return {split: [0] * len(lines) for split, lines in captions.items()}, 0, 0
    counts: Counter[int] = Counter()
    for split, lines in captions.items():
        for start in range(0, len(lines), 4096):
            for ids in tokenizer.encode_batch(lines[start : start + 4096]):
                words = ids[1:-1]  # between <bos> and <eos>
                lengths[split].append(len(words))
                counts.update(words)
    return lengths, len(counts), sum(count == 1 for count in counts.values())


def _shared_images(dataset: Dataset) -> dict[str, list[str]]:
    named: dict[tuple[str, str], list[tuple[str, Example]]] = defaultdict(list)
    for split, examples in dataset.items():
        for example in examples:
            named[example.name, example.label].append((split, example))
    shared: dict[str, list[str]] = {}
    for (name, _), places in named.items():
        if len({split for split, _ in places}) > 1:
            # train/1.jpg and val/1.jpg are usually different images; an equal id or size shows that they are one.
            splits_of: dict[tuple[str, object], set[str]] = defaultdict(set)
            for split, example in places:
                if not isinstance(example.image, ArchiveMember):  # each shard numbers its samples from 0
                    splits_of["id", example.id].add(split)
                splits_of["size", _size(example.image)].add(split)
            splits = set().union(*(found for found in splits_of.values() if len(found) > 1))
            if splits:
                shared[name] = [split for split in dataset if split in splits]
    return shared


def _size(image: Path | ArchiveMember | bytes) -> int:
    if isinstance(image, ArchiveMember):
        return image.size
    return image.stat().st_size if isinstance(image, Path) else len(image)


def _broken_images(dataset: Dataset) -> Iterator[Problem]:
    from captionkit.data.images import open_image  # loads Pillow

    def check(example: Example) -> Problem | None:
        try:
            open_image(example.image, target=(32, 32))
        except ImageError as error:
            return Problem("broken image", example.name, str(error))
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for problem in pool.map(check, chain.from_iterable(dataset.values())):
            if problem:
                yield problem


def _lines(report: DatasetReport) -> Iterator[str]:
    yield f"{_printable(report.name)}: {report.layout} layout, {_printable(report.root)}"
    yield ""
    yield f"{'':<12}{'images':>10}{'captions':>10}   {'captions per image':<21}{'words per caption'}"
    yield f"{'':<12}{'':>10}{'':>10}   {'min median  max':<21}{'min median  95%  max'}"
    for name, split in report.splits.items():
        per_image, words = split.captions_per_image, split.words_per_caption
        yield (
            f"{_printable(name):<12}{split.images:>10,}{split.captions:>10,}   "
            f"{per_image.min:>3}{per_image.median:>7.3g}{per_image.max:>5}      "
            f"{words.min:>3}{words.median:>7.3g}{words.p95:>5.3g}{words.max:>5}"
        )
    yield from _histogram(report)
    yield from _class_lines(report)
    yield ""
    yield f"vocabulary: {report.vocabulary:,} words, {report.seen_once:.0%} of them seen once"
    yield f"images in more than one split: {_some(list(report.shared_images))}"
    yield from _problem_lines(report)


def _class_lines(report: DatasetReport) -> Iterator[str]:
    names = list(dict.fromkeys(chain.from_iterable(split.classes for split in report.splits.values())))
    if not names:
        return
    yield ""
    yield f"classes: {_some(names)}"
    for name, split in report.splits.items():
        if split.classes:
            images = Spread.of(list(split.classes.values()))
            yield (
                f"  {_printable(name):<10}{len(split.classes):>10,} classes, images a class: "
                f"{images.min:,} to {images.max:,}, median {images.median:,.3g}"
            )


def _problem_lines(report: DatasetReport) -> Iterator[str]:
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in report.problems:
        kinds[problem.kind].append(problem)
    opened = "every image was opened" if report.images_checked else "images were not opened"
    yield f"problems: {len(report.problems):,} ({opened})" if kinds else f"problems: none ({opened})"
    for kind, problems in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"  {kind}: {_some([problem.where for problem in problems])}"
        yield f"    {_printable(problems[0].detail)}"


def _histogram(report: DatasetReport) -> Iterator[str]:
    lengths: Counter[int] = Counter()
    for split in report.splits.values():
        lengths.update(split.lengths)
    total = sum(lengths.values())
    if not total:
        return
    # Bins of five words, or wider if those would not cover nearly all captions.
    longest = max(split.words_per_caption.p95 for split in report.splits.values())
    width = max(5, int(np.ceil(longest / (_BINS_SHOWN - 1))))
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[min(max(length - 1, 0) // width, _BINS_SHOWN - 1)] += count
    yield ""
    yield "words per caption"
    for index in range(max(bins) + 1):
        low, high, share = index * width + 1, (index + 1) * width, bins[index] / total
        label = f"{low} or more" if index == _BINS_SHOWN - 1 else f"{low}-{high}"
        yield f"  {label:<12}{share:>6.1%}  {'#' * round(40 * share)}".rstrip()


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return f"{len(names):,} ({', '.join(map(_printable, names[:_NAMES_SHOWN]))}{more})"


def _printable(text: str) -> str:
    # A name from a dataset may contain line breaks, terminal escapes or unpaired surrogates.
    return text if text.isprintable() else ascii(text)
