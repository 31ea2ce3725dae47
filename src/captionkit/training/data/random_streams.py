"""Random streams of the input pipeline, and stateless round-robin selection."""

from __future__ import annotations

import math

import numpy as np


def round_robin(key: tuple[int, ...], many: int, some: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Select `some` of `many` items for a `turn` (from 0); return them and how often each was selected before.

    Both results are [some]. The items form an endless sequence of rounds; each round contains every item once, in
    random order, and a turn takes the next `some` items. If some <= many, no item is selected twice in a turn. The
    order is redrawn whenever a turn and a round begin together; it depends on `key`, which is a seed, and the turn. No
    state is kept between turns.
    """
    places = turn * some + np.arange(some)  # positions in the endless sequence, [some]
    again = math.lcm(many, some)  # period after which a turn and a round begin together
    order = np.random.default_rng((*key, turn * some // again)).permutation(many)
    return order[places % many], places // many


#: separate streams of random numbers from one seed
ORDER, CHOICE, CAPTIONS, MIX, SAMPLES = 1, 2, 3, 4, 5
