"""The flags of a recipe: one for every field, in groups by table, for `train`, `find-lr` and `sweep`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from captionkit.cli.parser import Help

#: width of the column of flags on a terminal that is wide enough to have the help beside them, and that width
_FLAGS, _WIDE = 45, 110
_WIDEST = 130
#: flags without a table, as other commands call them
_PLAIN = {
    "trainer.seed": "--seed",
    "trainer.batch_size": "--batch-size",
    "trainer.epochs": "--epochs",
    "trainer.monitor": "--keep-best-by",
    "trainer.clip": "--clip",
}
_METAVARS = {bool: "BOOL", int: "N", float: "X", str: "TEXT", tuple: "A,B"}


class RecipeHelp(Help):
    """One line a field: the help stands beside its flag on a wide terminal, and below it on others."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns - 2, _WIDEST)
        super().__init__(prog, _FLAGS if width >= _WIDE else 8, width)


def add_recipe(parser: argparse.ArgumentParser, named: Callable[[str], str], *, fields: bool) -> None:
    """Add `--recipe`, `--init` and, with `fields`, a flag for every field of the recipe.

    `named` checks a name. The flags need pydantic and take a while to make, so commands that are not run go without.
    """
    add = parser.add_argument
    add("--recipe", type=named, metavar="NAME|FILE", help="shipped recipe, or a TOML file")
    add(
        "--init",
        "--trainer.init",
        type=named,
        dest="recipe:trainer.init",
        metavar="MODEL",
        help="model to start from: a folder, a Hub id, or 'bundled'",
    )
    parser.description = f"{parser.description} Fields of the recipe are listed by table, with defaults in brackets."
    parser.formatter_class = RecipeHelp
    if fields:
        _add_fields(parser)


def _add_fields(parser: argparse.ArgumentParser) -> None:
    try:
        from captionkit.training.config.recipe import flag_of, recipe_tables
        from captionkit.training.config.renamed import RENAMED
    except ModuleNotFoundError:
        return  # without the extra the command itself says what to install
    for name, table, leaves in recipe_tables():
        group = parser.add_argument_group(f"[{name}]", table.__doc__)
        kinds = get_type_hints(table)
        for leaf in leaves:
            dotted = f"{name}.{leaf.name}"
            if dotted == "trainer.init":
                continue
            flags = [flag_of(dotted), *([_PLAIN[dotted]] if dotted in _PLAIN else [])]
            group.add_argument(*flags, dest=f"recipe:{dotted}", metavar=_metavar(leaf), help=_help(leaf, kinds))
    for old in RENAMED:
        if old != "run.init":
            parser.add_argument(flag_of(old), dest=f"recipe:{old}", help=argparse.SUPPRESS)


def _metavar(leaf: Any) -> str:
    return "NAME" if leaf.name in ("name", "init", "clip") else _METAVARS[type(leaf.default)]


def _help(leaf: Any, kinds: dict[str, Any]) -> str:
    choices = ",".join(get_args(kinds[leaf.name])) if get_origin(kinds[leaf.name]) is Literal else ""
    default = ",".join(map(str, leaf.default)) if isinstance(leaf.default, tuple) else str(leaf.default)
    default = default.lower() if isinstance(leaf.default, bool) else default
    of = f" ({', '.join(leaf.metadata['of'])})".replace("(hard)", "(hard attention)") if leaf.metadata["of"] else ""
    text = f"{leaf.metadata['help']}{f' {{{choices}}}' if choices else ''}{of}{f' [{default}]' if default else ''}"
    return text.replace("%", "%%")
