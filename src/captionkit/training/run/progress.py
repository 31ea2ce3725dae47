"""The progress of a run, as stored in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """The state of a run besides weights and optimizer state."""

    #: number of optimizer steps completed
    step: int = 0
    #: scores and step of the best evaluation so far, by the score of trainer.monitor and then the others
    best_cider: float = float("-inf")
    best_loss: float = float("inf")
    #: 0 if no CLIP model scores the captions
    best_clipscore: float = 0.0
    best_step: int = 0
    #: validation scores of the model that the run started from, or else of the first evaluation
    start: dict[str, float] = field(default_factory=dict)
    #: why self-critical training was stopped; empty if it was not
    collapse: str = ""
    #: number of evaluations since the best one
    stale: int = 0
    #: training time in seconds, over all sessions
    seconds: float = 0.0
    #: fp16 loss scale and the number of steps since it last grew
    loss_scale: float = 0.0
    loss_scale_steps: int = 0
