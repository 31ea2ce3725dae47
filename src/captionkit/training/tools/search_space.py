"""Search space of a sweep: recipe fields with choices or ranges, from a TOML file or the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from optuna.trial import Trial

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
class Choices:
    """A categorical dimension."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Return the values that the recipe must accept."""
        return self.values

    def suggest(self, trial: Trial, field: str, _: str) -> Any:
        """Suggest a value for a trial."""
        return trial.suggest_categorical(field, self.values)

    def to_toml(self) -> Any:
        """Return the representation in a TOML file."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, uniform or log-uniform; integers if both bounds are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def ends(self) -> tuple[Any, ...]:
        """Return the values that the recipe must accept."""
        return self.low, self.high

    def suggest(self, trial: Trial, field: str, _: str) -> Any:
        """Suggest a value for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(field, self.low, self.high, log=self.log, step=int(self.step or 1))
        return _rounded(trial.suggest_float(field, self.low, self.high, log=self.log, step=self.step))

    def at(self, position: float) -> float:
        """Return the number at a relative position from 0 to 1."""
        if self.log:
            return _rounded(self.low * (self.high / self.low) ** position)
        return _rounded(self.low + (self.high - self.low) * position)

    def to_toml(self) -> Any:
        """Return the representation in a TOML file."""
        more = {"log": True} if self.log else {}
        return {"low": self.low, "high": self.high, **more} | ({} if self.step is None else {"step": self.step})


@dataclass(frozen=True)
class ByOptimizer:
    """A separate range for each optimizer.

    The sampler searches the relative position in the range, so that results carry over between optimizers.
    """

    ranges: Mapping[str, Range]

    def ends(self) -> tuple[Any, ...]:
        """Return the values that the recipe must accept."""
        return tuple(end for some in self.ranges.values() for end in some.ends())

    def suggest(self, trial: Trial, field: str, optimizer: str) -> Any:
        """Suggest a value for a trial with `optimizer`."""
        return self.ranges[optimizer].at(trial.suggest_float(field, 0, 1))

    def to_toml(self) -> Any:
        """Return the representation in a TOML file."""
        return {name: some.to_toml() for name, some in self.ranges.items()}


Dimension = Choices | Range | ByOptimizer
Space = dict[str, Dimension]


def suggest(space: Space, trial: Trial, recipe: Recipe) -> dict[str, Any]:
    """Suggest the values of a trial, by field; the optimizer first, because others depend on it."""
    optimizer = space[NAME].suggest(trial, NAME, "") if NAME in space else recipe.optimizer.name
    chosen = {NAME: optimizer} if NAME in space else {}
    return chosen | {name: some.suggest(trial, name, optimizer) for name, some in space.items() if name != NAME}


def short_name(field: str) -> str:
    """Return a short name of a field for display: "optimizer.lr_decoder" -> "lr_decoder"."""
    table, _, leaf = field.partition(".")
    return table if leaf == "name" else leaf


def to_tables(space: Space) -> dict[str, dict[str, Any]]:
    """Return the space as nested tables in the format of `read_space`."""
    tables: dict[str, dict[str, Any]] = {}
    for name, some in space.items():
        table, _, leaf = name.partition(".")
        tables.setdefault(table, {})[leaf] = some.to_toml()
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
    "adamw": Range(1e-4, 1e-2, log=True),
    "sgd": Range(3e-2, 3.0, log=True),
    "adafactor": Range(3e-3, 3e-1, log=True),
    "lion": Range(2e-5, 2e-3, log=True),
    "muon": Range(1e-4, 1e-2, log=True),
}
_DECAYS = {
    "adamw": Range(1e-3, 0.3, log=True),
    "sgd": Range(1e-6, 1e-3, log=True),
    "adafactor": Range(1e-3, 0.3, log=True),
    "lion": Range(1e-2, 3.0, log=True),
    "muon": Range(1e-3, 0.3, log=True),
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
        NAME: Choices(tuple(names)),
        "optimizer.lr_decoder": ByOptimizer({name: _RATES[name] for name in names}),
        "optimizer.weight_decay": ByOptimizer({name: _DECAYS[name] for name in names}),
        "optimizer.schedule": Choices(("cosine", "linear", "constant")),
        "optimizer.warmup": Range(0, max(1, steps // 5)),
        "decoder.dropout": Range(0.0, 0.6),
    }
    if recipe.encoder.train != "frozen":
        encoder = {name: Range(_RATES[name].low * _ENCODER, _RATES[name].high * _ENCODER, log=True) for name in names}
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
        return Choices(tuple(value))
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
    return Range(kind(low), kind(high), log, step)


def _check(path: Path, space: Space, recipe: Recipe) -> None:
    """Raise RecipeError if the space contains a value that the recipe rejects, or an unavailable optimizer."""
    for name, some in space.items():
        for value in some.ends():
            change_recipe(recipe, {name: value}, str(path))
    names = space[NAME].ends() if NAME in space else (recipe.optimizer.name,)
    for name in names:
        check_optimizer(name)
    for field, some in space.items():
        if isinstance(some, ByOptimizer) and set(some.ranges) != set(names):
            there, wanted = ", ".join(sorted(some.ranges)), ", ".join(sorted(names))
            raise RecipeError(f"{path}: {field} has ranges for {there}, but the optimizers are {wanted}")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
