"""Which images of a split 8-bit graphs are calibrated on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from captionkit.data.layouts import CaptionSet, Example
from captionkit.export.quantization.calibration_images import choose_evenly


@pytest.mark.parametrize("count", [1, 31, 32, 33, 40, 63, 64, 65, 100, 6000])
def test_images_are_spread_over_the_whole_split(count: int) -> None:
    examples = tuple(Example(number, Path(f"{number}.jpg"), ("a dog",)) for number in range(count))
    chosen = [int(image.stem) for image in choose_evenly(CaptionSet("dogs", "train", examples))]
    assert len(chosen) == min(32, count)
    ends = [*chosen, count]
    gaps = [after - before for before, after in pairwise(ends)]
    assert chosen[0] == 0 and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1
