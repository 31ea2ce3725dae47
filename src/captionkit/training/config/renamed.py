"""Earlier names of recipe fields: files, flags and runs that use them are read for one more version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from captionkit.errors import RecipeError

#: the present name of a field, by its earlier one
RENAMED = {
    "data.holdout": "data.val_fraction",
    "data.val_pictures": "data.val_images",
    "data.min_frequency": "data.min_freq",
    "image.crop": "image.random_resized_crop_scale",
    "image.colour": "image.color_jitter",
    "encoder.thaw": "encoder.unfreeze_epochs",
    "encoder.stage_decay": "encoder.layer_decay",
    "optimizer.objective": "loss.objective",
    "optimizer.epochs": "trainer.epochs",
    "optimizer.epoch_steps": "trainer.min_steps_per_epoch",
    "optimizer.batch_size": "trainer.batch_size",
    "optimizer.accumulate": "trainer.gradient_accumulation_steps",
    "optimizer.floor": "optimizer.min_lr_ratio",
    "optimizer.clip": "trainer.max_grad_norm",
    "optimizer.label_smoothing": "loss.label_smoothing",
    "optimizer.coverage": "loss.doubly_stochastic_weight",
    "optimizer.hard_reward": "loss.hard_reward",
    "optimizer.hard_entropy": "loss.hard_entropy",
    "optimizer.scheduled_sampling": "loss.scheduled_sampling",
    "optimizer.ema": "trainer.ema_decay",
    "run.seed": "trainer.seed",
    "run.init": "trainer.init",
    "run.precision": "trainer.precision",
    "run.workers": "data.num_workers",
    "run.recompute": "trainer.gradient_checkpointing",
    "run.compile": "trainer.compile",
    "run.eval_every": "trainer.eval_every",
    "run.keep": "trainer.monitor",
    "run.patience": "trainer.patience",
    "run.checkpoint_every": "trainer.checkpoint_every",
    "run.samples": "trainer.log_samples",
    "run.half_weights": "trainer.save_dtype",
    "run.trackers": "trainer.report_to",
}
#: what to use instead of a value that is gone, by field
GONE = {"optimizer.name": {"adam": "use 'adamw', which is the same with optimizer.weight_decay 0"}}
EARLIER = {new: old for old, new in RENAMED.items()}
#: `run.half_weights` was a boolean, or a word for one on the command line
_DTYPES = dict.fromkeys(("true", "1", "on", "yes"), "float16") | dict.fromkeys(("false", "0", "off", "no"), "float32")
#: most names that a notice lists
_LISTED = 6


def with_present_names(values: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of `values`, by dotted name, under their present names, and the earlier names among them.

    Raises RecipeError, whose message starts with `origin`, if a field is given under both names.
    """
    found = {name: RENAMED[name] for name in values if name in RENAMED}
    for old, new in found.items():
        if new in values:
            raise RecipeError(f"{origin}: {new} is given twice, as {old} too, its earlier name; leave out {old}")
    present = {found.get(name, name): value for name, value in values.items()}
    if "run.half_weights" in found:
        half = values["run.half_weights"]
        present["trainer.save_dtype"] = _DTYPES.get(str(half).lower(), half)
    return present, found


def notice(found: Mapping[str, str], origin: str, spelt: Callable[[str], str] = str) -> str:
    """Return one line that names the earlier names `found` in `origin` beside the present ones."""
    pairs = [f"{spelt(old)} is now {spelt(new)}" for old, new in list(found.items())[:_LISTED]]
    more = len(found) - len(pairs)
    listed = ", ".join(pairs) + (f", and {more} more (see docs/recipes.md)" if more else "")
    return f"{origin}: {listed}; the earlier names are read for one more version"
