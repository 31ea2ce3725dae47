"""Search space of a sweep: recipe fields with choices or ranges, from a TOML file or the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from captionkit.errors import RecipeError
from captionkit.training.config.recipe import (
    Recipe,
    change_recipe,
    nearest_field,
    present_tables,
    read_toml,
    recipe_fields,
)
from captionkit.training.optim.optimizers import check_optimizer

#: fields that cannot be searched, because trials would not be comparable: they change what is measured, or how often
_MEASURING = (
    "data.train_split",
    "data.val_split",
    "data.val_fraction",
    "data.val_images",
    "data.num_workers",
    "trainer.",
)
#: fields of the trainer that can
_TRAINING = {
    f"trainer.{name}"
    for name in (
        "epochs",
        "min_steps_per_epoch",
        "batch_size",
        "gradient_accumulation_steps",
        "max_grad_norm",
        "ema_decay",
    )
}
_KEYS = {"low", "high", "log", "step"}
NAME = "optimizer.name"


@dataclass(frozen=True)
class ByOptimizer:
    """A separate range for each optimizer.

    The sampler searches the relative position in the range, so that results carry over between optimizers.
    """

    ranges: Mapping[str, FloatDistribution | IntDistribution]

    def at(self, position: float, optimizer: str) -> float:
        """Return the number at a relative position from 0 to 1 in the range of `optimizer`."""
        some = self.ranges[optimizer]
        if some.log:
            return _rounded(some.low * (some.high / some.low) ** position)
        return _rounded(some.low + (some.high - some.low) * position)


Range = FloatDistribution | IntDistribution
Dimension = CategoricalDistribution | Range | ByOptimizer
Space = dict[str, Dimension]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return what Optuna's sampler chooses from, by field."""
    return {name: FloatDistribution(0, 1) if isinstance(some, ByOptimizer) else some for name, some in space.items()}


def chosen_fields(space: Space, params: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the values of a trial, by field, for what Optuna chose; some depend on the optimizer."""
    optimizer = params.get(NAME, recipe.optimizer.name)
    return {
        name: some.at(params[name], optimizer)
        if isinstance(some, ByOptimizer)
        else _rounded(params[name])
        if isinstance(some, FloatDistribution)
        else params[name]
        for name, some in space.items()
    }


def _ends(some: Dimension) -> tuple[Any, ...]:
    """Return the values of a dimension that the recipe must accept."""
    if isinstance(some, ByOptimizer):
        return tuple(end for one in some.ranges.values() for end in _ends(one))
    return some.choices if isinstance(some, CategoricalDistribution) else (some.low, some.high)


def _to_toml(some: Dimension) -> Any:
    if isinstance(some, ByOptimizer):
        return {name: _to_toml(one) for name, one in some.ranges.items()}
    if isinstance(some, CategoricalDistribution):
        return list(some.choices)
    more = {"log": True} if some.log else {}
    usual = 1 if isinstance(some, IntDistribution) else None
    return {"low": some.low, "high": some.high, **more} | ({} if some.step == usual else {"step": some.step})


def short_name(field: str) -> str:
    """Return a short name of a field for display: "optimizer.lr_decoder" -> "lr_decoder"."""
    table, _, leaf = field.partition(".")
    return table if leaf == "name" else leaf


def to_tables(space: Space) -> dict[str, dict[str, Any]]:
    """Return the space as nested tables in the format of `read_space`."""
    tables: dict[str, dict[str, Any]] = {}
    for name, some in space.items():
        table, _, leaf = name.partition(".")
        tables.setdefault(table, {})[leaf] = _to_toml(some)
    return tables


def to_toml(space: Space) -> str:
    """Return the space as the text of a TOML file for `read_space`."""
    import tomli_w

    return tomli_w.dumps(to_tables(space))


# --- the default ---

#: likely ranges of the decoder's peak learning rate and of the weight decay, by optimizer. Lion moves each weight by
#: the full learning rate and needs 3 to 10 times less than AdamW, with as much more weight decay (arXiv 2302.06675,
#: section 5); SGD's updates are proportional to the gradient; Adafactor's learning rate is relative to the weights.
#: SGD adds the decay to the gradient.
_RATES = {
    "adamw": FloatDistribution(1e-4, 1e-2, log=True),
    "sgd": FloatDistribution(3e-2, 3.0, log=True),
    "adafactor": FloatDistribution(3e-3, 3e-1, log=True),
    "lion": FloatDistribution(2e-5, 2e-3, log=True),
    "muon": FloatDistribution(1e-4, 1e-2, log=True),
}
_DECAYS = {
    "adamw": FloatDistribution(1e-3, 0.3, log=True),
    "sgd": FloatDistribution(1e-6, 1e-3, log=True),
    "adafactor": FloatDistribution(1e-3, 0.3, log=True),
    "lion": FloatDistribution(1e-2, 3.0, log=True),
    "muon": FloatDistribution(1e-3, 0.3, log=True),
}
#: ratio of the encoder's learning rate range to the decoder's
_ENCODER = 0.05


def default_space(recipe: Recipe, steps: int, given: Iterable[str]) -> Space:
    """Return the default space, without the fields in `given`.

    It has optimizer, learning rates, weight decay, schedule, warm-up (up to a fifth of the `steps`) and dropout.

    Args:
        recipe: values of the fields that are not searched.
        steps: number of steps of a trial.
        given: fields that were set by flags, and therefore are not searched.
    """
    given = set(given)
    names = [recipe.optimizer.name] if NAME in given else [name for name in _RATES if _there(name)]
    space: Space = {
        NAME: CategoricalDistribution(names),
        "optimizer.lr_decoder": ByOptimizer({name: _RATES[name] for name in names}),
        "optimizer.weight_decay": ByOptimizer({name: _DECAYS[name] for name in names}),
        "optimizer.schedule": CategoricalDistribution(("cosine", "linear", "constant")),
        "optimizer.warmup": IntDistribution(0, max(1, steps // 5)),
        "decoder.dropout": FloatDistribution(0.0, 0.6),
    }
    if recipe.encoder.train != "frozen":
        encoder = {
            name: FloatDistribution(_RATES[name].low * _ENCODER, _RATES[name].high * _ENCODER, log=True)
            for name in names
        }
        space["optimizer.lr_encoder"] = ByOptimizer(encoder)
    return {name: some for name, some in space.items() if name not in given}


def _there(name: str) -> bool:
    try:
        check_optimizer(name)
    except RecipeError:
        return False
    return True


# --- from a file ---


def read_space(path: Path, recipe: Recipe, given: Iterable[str]) -> Space:
    """Read a space from a TOML file with the recipe's tables and fields, each with choices or a range.

    A list holds choices; a table of low, high and optionally log or step is a range; a table of such tables, keyed by
    optimizer name, has a range for each optimizer.

    Args:
        path: the file.
        recipe: values of the fields that are not searched.
        given: fields that were set by flags, and therefore cannot be searched.

    Raises:
        RecipeError: one line that says what is wrong, with the file and the field.
    """
    space: Space = {}
    for table, fields in present_tables(read_toml(path), str(path)).items():
        if not isinstance(fields, dict):
            raise RecipeError(f"{path}: {table} is not a field of the recipe{nearest_field(table)}")
        for leaf, value in fields.items():
            name = f"{table}.{leaf}"
            space[name] = _dimension(f"{path}: {name}", name, value)
    if not space:
        raise RecipeError(f"{path}: names no field; for instance: [optimizer] and, below it, name = ['adamw', 'sgd']")
    for name in space:
        if name in given:
            raise RecipeError(f"{path}: {name} is searched, but a flag gives it too; leave one of them out")
    _check(path, space, recipe)
    return space


def _dimension(where: str, name: str, value: Any) -> Dimension:
    fields = dict(recipe_fields())
    if name not in fields:
        raise RecipeError(f"{where} is not a field of the recipe{nearest_field(name)}")
    if name.startswith(_MEASURING) and name not in _TRAINING:
        raise RecipeError(f"{where} cannot be searched: trials with different values could not be compared")
    if isinstance(value, list):
        if not value or any(isinstance(some, list | dict) for some in value):
            raise RecipeError(f"{where}: choices are a list of values, for instance [0.1, 0.2]")
        return CategoricalDistribution(value)
    default = fields[name].default
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise RecipeError(f"{where}: is no number; give a list of choices")
    if isinstance(default, float) and _by_optimizer(value):
        return ByOptimizer(
            {optimizer: _range(f"{where}.{optimizer}", some, float) for optimizer, some in value.items()}
        )
    return _range(where, value, type(default))


def _by_optimizer(value: Any) -> bool:
    tables = isinstance(value, dict) and all(isinstance(some, dict) for some in value.values())
    return tables and bool(value) and not _KEYS & value.keys()


def _range(where: str, value: Any, kind: type) -> Range:
    example = "for instance {low = 1e-4, high = 1e-2, log = true}, or a list of choices"
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys() or not value.keys() <= _KEYS:
        raise RecipeError(f"{where}: a range goes from low to high, with log or step if wanted: {example}")
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    allowed = (int,) if kind is int else (int, float)
    if any(type(number) not in allowed for number in (low, high, *([] if step is None else [step]))):
        raise RecipeError(f"{where}: low, high and step are {'whole ' if kind is int else ''}numbers")
    if not isinstance(log, bool):
        raise RecipeError(f"{where}: log is true or false")
    if not low < high:
        raise RecipeError(f"{where}: low = {low} is not below high = {high}")
    if log and low <= 0:
        raise RecipeError(f"{where}: low = {low} has no logarithm; give a positive one, or leave out log")
    if step is not None and (log or not 0 < step <= high - low):
        raise RecipeError(f"{where}: step = {step} goes without log, and is positive and no wider than the range")
    if kind is int:
        return IntDistribution(low, high, log, step or 1)
    return FloatDistribution(float(low), float(high), log, step)


def _check(path: Path, space: Space, recipe: Recipe) -> None:
    """Raise RecipeError if the space contains a value that the recipe rejects, or an unavailable optimizer."""
    for name, some in space.items():
        for value in _ends(some):
            change_recipe(recipe, {name: value}, str(path))
    names = _ends(space[NAME]) if NAME in space else (recipe.optimizer.name,)
    for name in names:
        check_optimizer(name)
    for field, some in space.items():
        if isinstance(some, ByOptimizer) and set(some.ranges) != set(names):
            there, wanted = ", ".join(sorted(some.ranges)), ", ".join(sorted(names))
            raise RecipeError(f"{path}: {field} has ranges for {there}, but the optimizers are {wanted}")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
