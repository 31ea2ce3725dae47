"""Collapse of self-critical training: the reward rises at the cost of qualities that it does not measure."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: how far CIDEr-D may fall below the start, as a share of it and in standard errors (scores of few images are noisy)
_FALL, _ERRORS = 0.05, 2.0
#: how much longer captions may become than at the start or than the references, whichever is longer, as a share
_LENGTHEN = 0.25
#: how far the share of captions that repeat a bigram may rise
_REPEAT = 0.2
#: how far the share of captions that break off may rise
_BREAK = 0.03


def detect_collapse(start: Mapping[str, float], now: Mapping[str, float], written: float) -> str:
    """Return why training should stop, or an empty string if it should go on.

    `start` and `now` are the validation scores (`Validator.scores`) at the start and now; `written` is the mean number
    of words of the references.
    """
    fall = start["cider"] - now["cider"]
    chance = _ERRORS * math.hypot(start["cider_error"], now["cider_error"])
    if fall > max(_FALL * start["cider"], chance):
        return f"validation CIDEr-D fell from {start['cider']:.3f} to {now['cider']:.3f}"
    usual = max(start["words"], written)
    if now["words"] > usual * (1 + _LENGTHEN):
        return f"captions lengthen: {now['words']:.1f} words, where {usual:.1f} are usual"
    if now["repeats"] > start["repeats"] + _REPEAT:
        return f"captions repeat themselves: {now['repeats']:.0%} say words twice, {start['repeats']:.0%} at the start"
    if now["breaks"] > start["breaks"] + _BREAK:
        return f"captions break off: {now['breaks']:.0%} end as none should, {start['breaks']:.0%} at the start"
    return ""
