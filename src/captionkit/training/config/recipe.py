"""The recipe: the whole configuration of a training run as a frozen tree of dataclasses (see `schema`).

A TOML file and the command line set the same fields by the same dotted names; both are generated from the dataclasses.
Does not import torch, so that `captionkit train --help` is fast.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from captionkit.errors import RecipeError
from captionkit.training.config.renamed import EARLIER, GONE, RENAMED, notice, with_present_names
from captionkit.training.config.schema import (
    DataRecipe,
    DecoderRecipe,
    DistillationRecipe,
    EncoderRecipe,
    ImageRecipe,
    LossRecipe,
    OptimizerRecipe,
    SelfCriticalRecipe,
    TrainerRecipe,
)
from captionkit.utils import paths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger(__name__)
_MAX_BYTES = 1 << 24  # size limit of a recipe or another TOML file
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

#: the shipped recipe used by default for a run that starts from a model
FINE_TUNE = "fine-tune"


@dataclass(frozen=True)
class Recipe:
    """The complete configuration of a training run."""

    data: DataRecipe = field(default_factory=DataRecipe)
    image: ImageRecipe = field(default_factory=ImageRecipe)
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    self_critical: SelfCriticalRecipe = field(default_factory=SelfCriticalRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the recipe as nested dictionaries of plain values."""
        return dataclasses.asdict(self)

    def value(self, name: str) -> Any:
        """Return the value of a field, given its dotted name."""
        table, _, leaf = name.partition(".")
        return getattr(getattr(self, table), leaf)

    def to_toml(self) -> str:
        """Return the recipe as the text of a TOML file."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    def to_flags(self) -> list[str]:
        """Return the command-line flags that reproduce this recipe: one per field that differs from the default."""
        usual = load_recipe(usual_recipe(self.trainer.init))
        flags = []
        for name, _ in recipe_fields():
            value = self.value(name)
            if value != usual.value(name):
                spelt = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                flags += [flag_of(name), spelt.lower() if isinstance(value, bool) else spelt]
        return flags


for _table in (
    DataRecipe,
    ImageRecipe,
    EncoderRecipe,
    DecoderRecipe,
    LossRecipe,
    OptimizerRecipe,
    DistillationRecipe,
    SelfCriticalRecipe,
    TrainerRecipe,
    Recipe,
):
    _table.__pydantic_config__ = _CONFIG  # type: ignore[union-attr]
_ADAPTER = TypeAdapter(Recipe)


def recipe_tables() -> Iterator[tuple[str, type, tuple[dataclasses.Field[Any], ...]]]:
    """Yield every table of the recipe: its name, its dataclass, and the fields of that."""
    for table in dataclasses.fields(Recipe):
        kind: type = table.default_factory  # type: ignore[assignment]
        yield table.name, kind, dataclasses.fields(kind)


def recipe_fields() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield every field with its dotted name: ("optimizer.lr_decoder", ...)."""
    for table, _, leaves in recipe_tables():
        for leaf in leaves:
            yield f"{table}.{leaf.name}", leaf


_DEFAULTS = {name: leaf.default for name, leaf in recipe_fields()}
#: fields that do not affect the weights, so that a run may be resumed with other values
_WITHOUT_EFFECT = {
    "data.num_workers",
    "trainer.gradient_checkpointing",
    "trainer.checkpoint_every",
    "trainer.log_samples",
    "trainer.save_dtype",
    "trainer.report",
    "trainer.report_to",
}
#: fields added since runs were first checkpointed: at their default, a run made before them is the same run
_ADDED = {
    "encoder.freeze_norms",
    "decoder.concepts",
    "decoder.concept_weight",
    "loss.concept_weight",
    "optimizer.lr_concepts",
    "trainer.clip",
}
#: table that had only fields that are elsewhere now
_OLD_TABLE = "run"


def flag_of(name: str) -> str:
    """Return the command-line flag of a field: "optimizer.lr_decoder" -> "--optimizer.lr-decoder"."""
    return "--init" if name in ("trainer.init", "run.init") else f"--{name.replace('_', '-')}"


def usual_recipe(init: str) -> str | None:
    """Return the name of the default shipped recipe: `FINE_TUNE` if the run starts from a model, else None."""
    return FINE_TUNE if init else None


def load_recipe(source: str | None, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Load a shipped recipe by name, a TOML file by path, or the default recipe if `source` is None.

    `overrides` are values from the command line, by dotted name. Earlier names of fields are read too, and a warning
    logged. Raises RecipeError, which names the field that is unknown or out of bounds.
    """
    given = _present(overrides or {}, "command line", flag_of)
    source = source or usual_recipe(given.get("trainer.init", ""))
    values = _from_toml(*_read(source)).to_dict() if source is not None else {}
    for name, value in given.items():
        table, _, leaf = name.partition(".")
        parts = [part.strip() for part in value.split(",") if part.strip()]
        values.setdefault(table, {})[leaf] = parts if isinstance(_DEFAULTS.get(name), tuple) else value
    try:
        recipe = _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise RecipeError(f"command line: {_explain(error)}") from None
    if not recipe.trainer.init:  # the decoder of a model to start from is not known yet
        check_decoder_fields(recipe, recipe.decoder.name, recipe.decoder.kind)
    return recipe


def change_recipe(recipe: Recipe, changes: Mapping[str, Any], origin: str) -> Recipe:
    """Return `recipe` with the fields in `changes` (by dotted name) replaced.

    Raises RecipeError, whose message starts with `origin`.
    """
    values = recipe.to_dict()
    for name, value in with_present_names(changes, origin)[0].items():
        table, _, leaf = name.partition(".")
        values.setdefault(table, {})[leaf] = value
    changed = _checked(values, origin)
    if not recipe.trainer.init:
        try:
            check_decoder_fields(changed, changed.decoder.name, changed.decoder.kind)
        except RecipeError as error:
            raise RecipeError(f"{origin}: {error}") from None
    return changed


def check_decoder_fields(recipe: Recipe, decoder: str, kind: str) -> None:
    """Raise RecipeError if a field is set that does not apply to `decoder` (with `kind`: soft or hard attention)."""
    what = f"{decoder} with {kind} attention" if decoder == "show-attend-tell" else decoder
    for name, leaf in recipe_fields():
        of, value = leaf.metadata["of"], recipe.value(name)
        if of and not {decoder, kind if decoder == "show-attend-tell" else ""} & set(of) and value != leaf.default:
            owners = " or ".join(
                owner if owner != "hard" else "show-attend-tell with decoder.kind 'hard'" for owner in of
            )
            raise RecipeError(f"{name} = {value!r}: the decoder is {what}, but this is for {owners}; leave it out")


def weights_fields(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the fields that affect the weights, as nested tables under the names that they had at first.

    A run's checkpoint is bound to them, so neither renaming nor adding a field may change them.
    """
    values: dict[str, dict[str, Any]] = {}
    for name, leaf in recipe_fields():
        value = recipe.value(name)
        if name not in _WITHOUT_EFFECT and not (name in _ADDED and value == leaf.default):
            table, _, field_name = EARLIER.get(name, name).partition(".")
            values.setdefault(table, {})[field_name] = value
    return values


def _from_toml(origin: str, content: str) -> Recipe:
    return _checked(present_tables(_parsed(origin, content), origin), origin)


def present_tables(tables: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return nested tables of recipe fields with earlier names replaced by present ones; log a warning about them.

    Raises RecipeError if a field is given under both names.
    """
    given = {
        f"{table}.{leaf}": value
        for table, leaves in tables.items()
        if isinstance(leaves, Mapping)
        for leaf, value in leaves.items()
    }
    present: dict[str, Any] = {
        table: {} if isinstance(leaves, Mapping) else leaves
        for table, leaves in tables.items()
        if not (table == _OLD_TABLE and isinstance(leaves, Mapping))
    }
    for name, value in _present(given, origin).items():
        table, _, leaf = name.partition(".")
        present.setdefault(table, {})[leaf] = value
    return present


def _present(values: Mapping[str, Any], origin: str, spelt: Callable[[str], str] = str) -> dict[str, Any]:
    present, found = with_present_names(values, origin)
    if found:
        _log.warning("%s", notice(found, origin, spelt))
    return present


def _checked(values: Mapping[str, Any], origin: str) -> Recipe:
    try:
        # TOML is typed, so a string or a boolean in place of a number is a mistake. In JSON mode pydantic's strict
        # validation still accepts lists for tuples. Types that JSON lacks (dates) do not occur in any field.
        return _ADAPTER.validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{origin}: {_explain(error)}") from None


def shipped_recipes() -> dict[str, str]:
    """Return the recipes that ship with the package: name -> text."""
    folder = resources.files("captionkit") / "recipes"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises RecipeError if it cannot be read or is not valid TOML."""
    return _parsed(str(path), _text_of(path))


def _parsed(origin: str, content: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: not TOML ({error})") from None


def _text_of(path: Path) -> str:
    return paths.read_text(path, RecipeError, limit=_MAX_BYTES)


def _read(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.suffix == ".toml" or paths.is_file(source, RecipeError):
        return source, _text_of(path)
    shipped = shipped_recipes()
    if source not in shipped:
        raise RecipeError(
            f"recipe {source!r} is neither a file nor one of {', '.join(shipped)}{_nearest(source, shipped)}"
        )
    return f"recipe {source}", shipped[source]


def _explain(error: ValidationError) -> str:
    reasons = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        if name == _OLD_TABLE and isinstance(problem["input"], Mapping):
            unknown = [f"{name}.{leaf}" for leaf in problem["input"]]
            reasons += [f"{one} is not a field of the recipe{nearest_field(one)}" for one in unknown]
        elif problem["type"] == "unexpected_keyword_argument":
            reasons.append(f"{name} is not a field of the recipe{nearest_field(name)}")
        elif str(problem["input"]) in GONE.get(name, {}):
            reasons.append(f"{name} = {problem['input']!r} is gone; {GONE[name][problem['input']]}")
        else:
            reasons.append(f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return "; ".join(reasons)


def nearest_field(name: str) -> str:
    """Return "; did you mean ...?" for an unknown field name, or an empty string if no field has a similar name."""
    fields = [field for field, _ in recipe_fields()]
    moved = [field for field in fields if field.endswith(f".{name.rpartition('.')[2]}")]
    if moved:  # the right name in the wrong table
        return f"; did you mean {moved[0]!r}?"
    return _nearest(name, [*fields, *RENAMED] if "." in name else [table.name for table in dataclasses.fields(Recipe)])


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {RENAMED.get(close[0], close[0])!r}?" if close else ""
