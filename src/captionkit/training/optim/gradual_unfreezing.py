"""Gradual unfreezing (Howard and Ruder 2018, arXiv 1801.06146, section 3.3): the encoder thaws from its end."""

from __future__ import annotations

from captionkit.models.encoder import Encoder


class GradualUnfreezing:
    """Which stages of an encoder are trained at which step: those it trains when this is made, one after the other.

    The last one thaws after `epochs`, each earlier one as many later; with 0 `epochs` all are trained from the start.
    The number of the step decides and nothing is remembered, so a resumed run goes on as it was.
    """

    def __init__(self, encoder: Encoder, epochs: float, steps_per_epoch: int) -> None:
        self.encoder, self._first = encoder, encoder.trained_from
        self._interval = max(1, round(epochs * steps_per_epoch)) if epochs else 0

    def first_stage(self, step: int) -> int | None:
        """The first stage that is trained at `step` (from 0), or None where none is."""
        if self._first is None or not self._interval:
            return self._first
        thawed = step // self._interval
        return max(self._first, len(self.encoder.stages) - thawed) if thawed else None

    def apply(self, step: int) -> None:
        """Freeze and thaw the encoder as it is at `step`."""
        stage = self.first_stage(step)
        if stage != self.encoder.trained_from:
            self.encoder.train_from(stage)

    def told(self, steps: int) -> str:
        """What a run of `steps` does, in a line; nothing where nothing waits."""
        if self._first is None or not self._interval:
            return ""
        count, last = len(self.encoder.stages), self.first_stage(steps - 1)
        reached = 0 if last is None else count - last
        return (
            f"the encoder is frozen at first and thaws a stage every {self._interval} steps, from the last on: "
            f"{reached} of its {count} in the whole run"
        )
