"""METEOR 1.5 for English (Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation").

Computed as `java -jar meteor-1.5.jar - - -stdio -l en -norm` does, which is what coco-caption runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captionkit.metrics.meteor.aligner import align
from captionkit.metrics.meteor.data import data_folder, jar_of, paraphrases_of, read_tables
from captionkit.metrics.meteor.lexicon import Lexicon
from captionkit.metrics.meteor.matches import Match, Sentence, parts_of, possible_matches
from captionkit.metrics.meteor.normalizer import CONTROLS, normalize
from captionkit.metrics.meteor.paraphrases import Paraphrases
from captionkit.metrics.meteor.table import LONGEST, load_table
from captionkit.metrics.metric import Floats, MetricResult, Tokens, checked_batch

# Parameters tuned for the ranking task, the default for English (Denkowski and Lavie 2014, table 3).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MODULE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase

# A row of statistics. For both sides, candidate first: words, function words; then for each module, matched content
# words and matched function words; then chunks; then matched words.
_MODULES = 4
_CHUNKS = _MODULES + 4 * len(_MODULE_WEIGHTS)
_COUNTED = _CHUNKS + 3

_AT_ONCE = 100  # images whose sentences are in memory at a time


class Meteor:
    """METEOR of captions in Penn Treebank tokens.

    The statistics are METEOR's own, 23 numbers per image: those of the best-scoring reference. A candidate that matches
    it completely in one chunk counts no chunk. Raises CaptionkitError if METEOR's data is not installed.
    """

    names: tuple[str, ...] = ("METEOR",)

    def __init__(self) -> None:
        folder = data_folder()
        tables = read_tables(jar_of(folder))
        self._prefixes = tables.prefixes
        self._lexicon = Lexicon(tables)
        self._paraphrases = Paraphrases(load_table(paraphrases_of(folder)))
        self.reset()

    def reset(self) -> None:
        """Drop all images."""
        self._statistics: list[list[int]] = []

    def update(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
        """Add a batch: one candidate per image, and the references of each.

        Raises ValueError as `CaptionCollector.update` does.
        """
        images = list(map(_lines, *checked_batch(candidates, references)))
        for first in range(0, len(images), _AT_ONCE):
            self._take(images[first : first + _AT_ONCE])

    def compute(self) -> MetricResult:
        """Return the scores of all images so far."""
        statistics = np.array(self._statistics, np.float64).reshape(-1, _COUNTED)
        return MetricResult(self.names, _scores(statistics), statistics, _scores)

    def _take(self, images: Sequence[Sequence[str]]) -> None:
        sentences = self._sentences(dict.fromkeys(line for lines in images for line in lines))
        for lines in images:
            candidate, *references = (sentences[line] for line in lines)
            rows = [self._compare(candidate, reference) for reference in references]
            self._statistics.append(max(rows, key=_score))

    def _sentences(self, lines: Sequence[str] | dict[str, None]) -> dict[str, Sentence]:
        words = {line: normalize(line, self._prefixes) for line in lines}
        spelt = [self._paraphrases.spell(said) for said in words.values()]
        phrases = self._paraphrases.phrases(spelt)
        return {
            line: Sentence([self._lexicon[word] for word in said], text, some, parts_of(text, LONGEST))
            for (line, said), text, some in zip(words.items(), spelt, phrases, strict=True)
        }

    def _compare(self, candidate: Sentence, reference: Sentence) -> list[int]:
        placed, chunks = align(possible_matches(candidate, reference, self._paraphrases))
        return _count(candidate, reference, placed, chunks)


def _lines(candidate: Tokens, references: Sequence[Tokens]) -> list[str]:
    """Return the candidate and the references as METEOR parses them from the line that coco-caption writes."""
    said = " ".join(candidate).replace("|||", "").replace("  ", " ")
    parts = " ||| ".join([*map(" ".join, references), said]).split("|||")
    return [part.strip(CONTROLS) for part in (parts[-1], *parts[:-1])]


def _count(candidate: Sentence, reference: Sentence, placed: Sequence[tuple[int, Match]], chunks: int) -> list[int]:
    """Return a row of statistics."""
    row = [0] * _COUNTED
    row[:_MODULES] = (
        len(candidate.words),
        len(reference.words),
        candidate.function_words,
        reference.function_words,
    )
    for place, match in placed:
        at = _MODULES + 4 * match.module
        sides = (
            candidate.words[match.start : match.start + match.length],
            reference.words[place : place + match.reference_length],
        )
        for side, words in enumerate(sides):
            for word in words:
                row[at + 2 * word.is_function_word + side] += 1
            row[_CHUNKS + 1 + side] += len(words)
    if chunks != 1 or row[:2] != row[_CHUNKS + 1 :]:
        row[_CHUNKS] = chunks
    return row


def _scores(sums: Floats) -> Floats:
    """Compute scores [...,1] from sums [...,23], by equations 1 to 4 of the paper."""
    lengths, functions = sums[..., 0:2], sums[..., 2:4]  # [...,2], candidate and reference
    modules = sums[..., _MODULES:_CHUNKS].reshape(*sums.shape[:-1], len(_MODULE_WEIGHTS), 2, 2)
    weights = np.array(_MODULE_WEIGHTS)
    content, function = (np.einsum("...ms,m->...s", modules[..., kind, :], weights) for kind in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (_DELTA * content + (1 - _DELTA) * function) / (
            _DELTA * (lengths - functions) + (1 - _DELTA) * functions
        )
        precision, recall = shares[..., 0], shares[..., 1]
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragmentation = sums[..., _CHUNKS] / (sums[..., _CHUNKS + 1 :].sum(-1) / 2)
        scores = mean * (1 - _GAMMA * fragmentation**_BETA)
    return np.maximum(np.nan_to_num(scores, nan=0.0), 0)[..., None]


def _score(row: Sequence[int]) -> float:
    """Compute `_scores` of one row in METEOR's own order of summation, which decides which reference is the best."""
    candidate, reference = (_share(row, side) for side in (0, 1))
    if not candidate or not reference:
        return 0.0
    mean = 1 / ((1 - _ALPHA) / candidate + _ALPHA / reference)
    fragmentation = row[_CHUNKS] / ((row[_CHUNKS + 1] + row[_CHUNKS + 2]) / 2)
    return max(mean * (1 - _GAMMA * fragmentation**_BETA), 0.0)


def _share(row: Sequence[int], side: int) -> float:
    """Return the weighted share of a side's words that are matched: precision or recall."""
    function_words = row[2 + side]
    length = _DELTA * (row[side] - function_words) + (1 - _DELTA) * function_words
    matched = 0.0
    for kind, share in ((0, _DELTA), (2, 1 - _DELTA)):
        for module, weight in enumerate(_MODULE_WEIGHTS):
            matched += row[_MODULES + 4 * module + kind + side] * weight * share
    return matched / length if length else 0.0
