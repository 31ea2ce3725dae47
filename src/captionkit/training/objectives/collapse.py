"""When self-critical training does harm: it raises the reward at the cost of what the reward does not see."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: how far CIDEr-D may fall below the start, as a share of it, and in standard errors: few images prove little
_FALL, _ERRORS = 0.05, 2.0
#: how much longer captions may become than they were, or than people's are if those are longer; a share of the words
_LENGTHEN = 0.25
#: how many more captions, of all, may say a pair of words twice
_REPEAT = 0.2
#: and how many more may break off
_BREAK = 0.03


def detect_collapse(start: Mapping[str, float], now: Mapping[str, float], written: float) -> str:
    """Why training should stop, from the validation scores (`Validator.scores`) of its start and of now; else nothing.

    `written` is the mean number of words of people's captions.
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
