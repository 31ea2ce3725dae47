"""What `captionkit completion` does: a script that a shell completes commands, options and files with."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterator

import shtab

from captionkit.cli.parser import present_names


def completion_script(parser: argparse.ArgumentParser, shell: str, *, paths: Container[object]) -> str:
    """Return the script for a shell. `parser` is changed, so nothing else can be done with it.

    `paths` are the types of options that name files; arguments without a flag do in any case.
    """
    for action in _actions(parser):
        action.option_strings = present_names(action)
        named = not action.option_strings or action.type in paths
        if named and action.nargs != 0 and not action.choices:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
