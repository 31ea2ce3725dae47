"""Taking some of many in turn, so that all come up equally often, without remembering who came up before."""

from __future__ import annotations

import math

import numpy as np


def round_robin(key: tuple[int, ...], many: int, some: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Which `some` of `many` come up in a `turn` (from 0), and how often each of them came up before: two [some].

    All `many` come up once, in a random order, before any comes up again, and so on without end; a turn takes the next
    `some` of that row. Where some <= many, nothing comes up twice in a turn. The order is drawn anew as soon as a turn
    begins where a round does; it depends on `key`, which is a seed, and the turn.
    """
    places = turn * some + np.arange(some)  # in the endless row, [some]
    again = math.lcm(many, some)  # after so many places, turn and round begin together
    order = np.random.default_rng((*key, turn * some // again)).permutation(many)
    return order[places % many], places // many


#: separate streams of random numbers from one seed
ORDER, CHOICE, CAPTIONS, MIX, SAMPLES = 1, 2, 3, 4, 5
