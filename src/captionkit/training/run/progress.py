"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a run is."""

    #: optimizer steps made
    step: int = 0
    #: of the best evaluation so far: the highest CIDEr-D, and of equal ones the lowest loss
    best_cider: float = float("-inf")
    best_loss: float = float("inf")
    best_step: int = 0
    #: validation scores of the model that the run started from, if it was one
    start: dict[str, float] = field(default_factory=dict)
    #: why self-critical training was stopped, if it was
    detect_collapse: str = ""
    #: evaluations since the best one
    stale: int = 0
    #: training seconds, over all sittings
    seconds: float = 0.0
    #: fp16's loss scale and the steps since it last grew
    loss_scale: float = 0.0
    loss_scale_steps: int = 0
