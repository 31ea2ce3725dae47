"""ROUGE-L (Lin 2004) as coco-caption computes it: F-measure, beta 1.2, of the longest common subsequence.

Precision and recall are maxima over the references, taken independently; the corpus score is the images' mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from captionkit.metrics.metric import CaptionCollector, MetricResult, Tokens, mean_result

_BETA = 1.2


class RougeL(CaptionCollector):
    """ROUGE-L of tokenised captions."""

    names: tuple[str, ...] = ("ROUGE-L",)

    def compute(self) -> MetricResult:
        """Return the scores of all images so far."""
        scores = [_rouge(said, written) for said, written in zip(self.candidates, self.references, strict=True)]
        return mean_result(self.names, np.array(scores, np.float64).reshape(-1, 1))


def _rouge(candidate: Tokens, references: Sequence[Tokens]) -> float:
    # In coco-caption an empty sentence has one empty token, which it shares with other empty sentences.
    candidate, references = candidate or ("",), [reference or ("",) for reference in references]
    bits: dict[Hashable, int] = {}
    for place, token in enumerate(candidate):
        bits[token] = bits.get(token, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        common = _common(bits, len(candidate), reference)
        if common:
            precision = max(precision, common / len(candidate))
            recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(bits: dict[Hashable, int], length: int, tokens: Tokens) -> int:
    """Return the length of the longest common subsequence of `tokens` and the sentence with token positions `bits`.

    A row of the usual table is one integer, with a zero bit where the row rises: Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited".
    """
    ones = row = (1 << length) - 1
    for token in tokens:
        if places := bits.get(token):
            same = row & places
            row = ((row + same) | (row - same)) & ones
    return length - row.bit_count()
