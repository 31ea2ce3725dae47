"""Lookup of a sentence's phrases, and their paraphrases, in METEOR's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.metrics.meteor.table import LONGEST, SEPARATOR, UNKNOWN, Arrays, child_keys, vocabulary

_MOST_ROWS = 100_000  # cached as sets of texts, about 100 MB


class Phrase(NamedTuple):
    """A phrase of a sentence: its start, its number of words, and its paraphrases."""

    start: int
    length: int
    others: frozenset[str]
    row: int


class Paraphrases:
    """The table, with a cache of the rows used so far."""

    def __init__(self, table: Arrays) -> None:
        self._table = table
        self._characters = vocabulary(table)
        self._rows: dict[int, frozenset[str]] = {}

    def spell(self, words: Sequence[str]) -> str:
        """Encode the sentence with one character per word; `others` are substrings of such encodings."""
        find = self._characters.get
        return "".join([find(word, UNKNOWN) for word in words])

    def phrases(self, sentences: Sequence[str]) -> list[list[Phrase]]:
        """Return the phrases of each encoded sentence that are in the table, by start and then length."""
        starts, lengths, rows = self._find(SEPARATOR.join(sentences))
        bounds = np.cumsum([0] + [len(sentence) + 1 for sentence in sentences])
        first = np.searchsorted(starts, bounds).tolist()
        if len(self._rows) > _MOST_ROWS:
            self._rows.clear()
        found = list(zip(starts.tolist(), lengths.tolist(), rows.tolist(), strict=True))
        return [
            [Phrase(start - offset, length, self._others(row), row) for start, length, row in found[low:high]]
            for offset, low, high in zip(bounds.tolist(), first, first[1:], strict=False)
        ]

    def in_order(self, row: int) -> list[str]:
        """Return the paraphrases in a row, in the order of METEOR's file, which breaks ties."""
        starts = self._table["starts"]
        codes = self._table["others"][starts[row] : starts[row + 1] - 1]
        return codes.tobytes().decode("utf-16-le").split(SEPARATOR)

    def _others(self, row: int) -> frozenset[str]:
        others = self._rows.get(row)
        if others is None:
            others = self._rows[row] = frozenset(self.in_order(row))
        return others

    def _find(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return starts, lengths and rows of all phrases in `text`: one trie step for all positions at a time."""
        codes = np.frombuffer(text.encode("utf-16-le"), np.uint16)
        places = np.arange(len(codes))
        nodes = np.zeros(len(codes), np.int64)
        found = []
        for k in range(LONGEST):
            inside = places + k < len(codes)
            places, nodes = places[inside], nodes[inside]
            nodes, known = _step(self._table[f"keys{k + 1}"], child_keys(nodes, codes[places + k]))
            places = places[known]
            rows = self._table[f"rows{k + 1}"][nodes]
            ends = rows >= 0
            found.append(np.stack([places[ends], np.full(ends.sum(), k + 1), rows[ends]]))
        starts, lengths, rows = np.concatenate(found, axis=1)  # [3, phrases]
        order = np.argsort(starts, kind="stable")
        return starts[order], lengths[order], rows[order]


def _step(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the nodes of the wanted keys that exist, and which keys these are."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(len(wanted), bool)
    nodes = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[nodes] == wanted
    return nodes[known], known
