"""The reference pages, made of the code: public names, commands and options, fields of recipes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import captionkit
from captionkit.cli.main import _GROUPS, _parser
from captionkit.cli.parser import Parser, present_names
from captionkit.training.config.recipe import recipe_tables
from captionkit.training.config.renamed import RENAMED

#: headings of the Python reference, by the package that a public name is of
_PYTHON = {
    "Captioning": ("inference", "errors"),
    "Images and datasets": ("data",),
    "Scoring": ("metrics", "eval"),
    "Training and export": ("training", "export", "models"),
}
#: what extensions implement
_CONTRACTS = (
    "captionkit.inference.search.stepper.Stepper",
    "captionkit.models.encoder.Encoder",
    "captionkit.models.encoder.EncoderConfig",
    "captionkit.models.decoder.Decoder",
    "captionkit.models.decoder.Decoded",
    "captionkit.models.decoder.PackedCaptions",
    "captionkit.metrics.metric.Metric",
)
#: commands whose options are the fields of recipes too
_TAKE_RECIPES = ("train", "find-lr", "sweep")


def python_page() -> str:
    """Return the page of the public names, for mkdocstrings to fill in."""
    lines = [
        "# Python",
        "",
        "What stands here is imported from `captionkit` itself, such as `captionkit.load`. A name is loaded at "
        "its first use, so that `import captionkit` is quick and needs no torch.",
    ]
    waiting = dict(captionkit._MODULES)
    for heading, packages in _PYTHON.items():
        lines += ["", f"## {heading}"]
        for name in [name for name, module in waiting.items() if module.split(".")[0] in packages]:
            lines += ["", f"::: captionkit.{waiting.pop(name)}.{name}"]
    if waiting:
        raise ValueError(f"no heading of the Python reference takes {', '.join(waiting)}")
    lines += ["", "## What extensions implement", ""]
    lines.append("[Architecture](../architecture.md#where-do-i-add) says where each is registered.")
    lines += [line for name in _CONTRACTS for line in ("", f"::: {name}")]
    return "\n".join(lines) + "\n"


def command_line_page() -> str:
    """Return the page of the commands, in the groups of `captionkit --help`, each with its options."""
    lines = [
        "# Command line",
        "",
        "Every command takes `-v` (`--verbose`) and `--help`. The exit status is 0 if all was done,",
    ]
    lines += ["1 if something was not, 2 if the command was not understood."]
    for heading, commands in _GROUPS.items():
        lines += ["", f"## {heading.capitalize()}"]
        for command in commands:
            lines += ["", f"### captionkit {command}", "", *_command(command)]
    return "\n".join(lines) + "\n"


def _command(command: str) -> Iterator[str]:
    parser = _command_parser([] if command in _TAKE_RECIPES else [command], command)
    yield from (_prose(parser.description or ""), "")
    yield from ("```text", parser._short_usage().replace("%%", "%"), "```")
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if _is_shown(action)]
        if shown and group.title not in ("positional arguments", "options"):
            yield from ("", f"**{group.title}**{': ' + group.description if group.description else ''}")
        for action in shown:
            yield from ("", f"`{_spelt(action)}`", f":   {_prose(_help(parser, action))}")
    if command in _TAKE_RECIPES:
        yield from ("", "And a flag for every [field of a recipe](recipe-fields.md).")


def _command_parser(words: list[str], command: str) -> Parser:
    (commands,) = (action for action in _parser(words)._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[command]


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and action.dest not in ("help", "verbose")


def _spelt(action: argparse.Action) -> str:
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        return formatter._format_args(action, action.dest) if action.nargs != "+" else f"{action.metavar} ..."
    value = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper())}"
    return ", ".join(present_names(action)) + value


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return argparse.HelpFormatter(parser.prog)._expand_help(action)


def _prose(text: str) -> str:
    """Return a text of the code as Markdown that shows it as it is; what stands between backticks is code already."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_<>\[\]|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def recipe_fields_page() -> str:
    """Return the page of a recipe's fields: defaults, what they may be, and what they mean."""
    lines = [
        "# Recipe fields",
        "",
        "A field `name` of the table `[table]` is `--table.name` on the command line, with hyphens.",
    ]
    lines.append("[Recipes](../recipes.md) says how to write one, and more of some fields.")
    for name, table, leaves in recipe_tables():
        lines += ["", f"## `[{name}]`", "", table.__doc__ or "", "", "| field | default | |", "|---|---|---|"]
        kinds = get_type_hints(table)
        lines += [
            f"| `{leaf.name}` | {_default(leaf.default)} | {_meaning(leaf, kinds[leaf.name])} |" for leaf in leaves
        ]
    lines += ["", "## Earlier names", "", "These are read for one more version, with a line that says so.", ""]
    lines += ["| earlier | now |", "|---|---|"]
    lines += [f"| `{old}` | `{new}` |" for old, new in sorted(RENAMED.items())]
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`" if text else ""


def _meaning(leaf: Any, kind: Any) -> str:
    choices = " or ".join(f"`{choice}`" for choice in get_args(kind)) if get_origin(kind) is Literal else ""
    of = ", ".join(leaf.metadata["of"]).replace("hard", "hard attention")
    return "; ".join(filter(None, (_prose(leaf.metadata["help"]), choices, f"for {of}" if of else "")))
