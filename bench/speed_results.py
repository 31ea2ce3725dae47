"""What `bench/speed.py` measured, and what follows from it: medians, ratios and shares of the machine's limit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from arithmetic import Work
from speed_cases import ARITHMETIC, MACHINE, reading


class Figure(NamedTuple):
    """A figure that was measured once a round."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        values = [*values]
        return cls(statistics.median(values), min(values), max(values))


class Limit(NamedTuple):
    """How near a stage comes to what the machine can do."""

    #: of one image
    flops: float
    #: milliseconds an image that it takes at least, at the median rates
    least: float
    #: of the time that was measured
    share: Figure
    #: "arithmetic" or "reading weights"
    binds: str


@dataclass
class Results:
    """By contender and case: facts, and the figures of each round."""

    settings: dict[str, Any]
    #: the contender that ratios are to, and all of ours
    ours: str
    own: list[str]
    facts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    rounds: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def reads(self) -> list[str]:
        """The machine's cases of reading as much as our models' weights are."""
        stages = (
            stage for facts in self.facts.values() for told in facts.values() for stage in told.get("work", {}).values()
        )
        return sorted({reading(work["weights"]) for work in stages})

    def has(self, contender: str, case: str) -> bool:
        return bool(self.rounds.get(contender, {}).get(case))

    def values(self, contender: str, case: str, key: str = "total") -> list[float]:
        return [result[key] for result in self.rounds[contender][case]]

    def figure(self, contender: str, case: str, key: str = "total") -> Figure | None:
        """Milliseconds an image, or what else `key` names; None where it was not measured."""
        return Figure.of(self.values(contender, case, key)) if self.has(contender, case) else None

    def ratio(self, contender: str, case: str, ours: str) -> Figure | None:
        """How many times as long as our case `ours` it takes, round by round."""
        if not (self.has(contender, case) and self.has(self.ours, ours)):
            return None
        pairs = zip(self.values(contender, case), self.values(self.ours, ours), strict=True)
        return Figure.of(theirs / own for theirs, own in pairs)

    def limit(self, contender: str, case: str, stage: str) -> Limit | None:
        """A stage of ours against the machine, round by round."""
        if not self.has(contender, case) or MACHINE not in self.rounds:
            return None
        facts = self.facts[contender][case]
        work, pictures = Work(**facts["work"][stage]), facts["pictures"]
        times = self.values(contender, case, stage)
        found = [work.seconds(*self._rates(number, work.weights)) for number in range(len(times))]
        least = [seconds * 1000 / pictures for seconds, _ in found]
        shares = Figure.of(limit / measured for limit, measured in zip(least, times, strict=True))
        binds = statistics.mode(what for _, what in found)
        return Limit(sum(work.flops.values()) / pictures, statistics.median(least), shares, binds)

    def _rates(self, number: int, weights: int) -> tuple[dict[str, float], float]:
        """Of a round: FLOPs a second by kind of number, bytes a second that so many bytes are read with."""
        measured = self.rounds[MACHINE]
        rates = {kind: measured[kind][number]["rate"] for kind in ARITHMETIC}
        return rates, measured[reading(weights)][number]["rate"]
