"""Gradual unfreezing of the encoder, last stage first (Howard and Ruder 2018, arXiv 1801.06146, section 3.3)."""

from __future__ import annotations

from captionkit.models.encoder import Encoder


class GradualUnfreezing:
    """Schedule that unfreezes, one by one, the stages that `encoder` trains when this object is created.

    The last stage is unfrozen after `epochs` epochs and each earlier stage another `epochs` epochs later. With
    `epochs` = 0 all of them are trained from the start. The schedule is a function of the step number only and keeps
    no state, so a resumed run behaves like an uninterrupted one.
    """

    def __init__(self, encoder: Encoder, epochs: float, steps_per_epoch: int) -> None:
        self.encoder, self._first = encoder, encoder.trained_from
        self._interval = max(1, round(epochs * steps_per_epoch)) if epochs else 0

    def first_stage(self, step: int) -> int | None:
        """Return the index of the first stage trained at `step` (from 0), or None if all are frozen."""
        if self._first is None or not self._interval:
            return self._first
        unfrozen = step // self._interval
        return max(self._first, len(self.encoder.stages) - unfrozen) if unfrozen else None

    def apply(self, step: int) -> None:
        """Freeze and unfreeze the encoder's stages according to `step`."""
        stage = self.first_stage(step)
        if stage != self.encoder.trained_from:
            self.encoder.train_from(stage)

    def describe(self, steps: int) -> str:
        """Describe the schedule of a run of `steps` steps in one line; empty if nothing is unfrozen gradually."""
        if self._first is None or not self._interval:
            return ""
        count, last = len(self.encoder.stages), self.first_stage(steps - 1)
        reached = 0 if last is None else count - last
        return (
            f"the encoder is frozen at first, and a stage is unfrozen every {self._interval} steps, from the last "
            f"on: {reached} of its {count} in the whole run"
        )
