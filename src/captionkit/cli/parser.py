"""The argument parser: options that were renamed, commands in groups, and one line for what is wrong."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from captionkit.utils.console import print_message, print_result
from captionkit.utils.dataclasses import nearest


class _Option(argparse.Action):
    """An option that may have `old` names: they are taken with a notice, and no help shows them."""

    def __init__(self, option_strings: Sequence[str], dest: str, old: Sequence[str] = (), **how: Any) -> None:
        super().__init__([*option_strings, *old], dest, **how)
        self.old = tuple(old)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if option_string in self.old:
            print_message(f"captionkit: {option_string} is now {self.option_strings[0]}")
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


class _Switch(_Option):
    """The same for an option without a value."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: Any = False, **how: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, const=True, default=default, **how)


class Help(argparse.HelpFormatter):
    """Leaves out the old names of options."""

    def __init__(self, prog: str, max_help_position: int = 28, width: int | None = None) -> None:
        super().__init__(prog, max_help_position=max_help_position, width=width)  # 28 fits --no-repeat-ngram-size

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = present_names(action)
        return super()._format_action_invocation(shown)


def present_names(action: argparse.Action) -> list[str]:
    """Return the names of an option without the old ones."""
    return [name for name in action.option_strings if name not in getattr(action, "old", ())]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; a command with sixty options has too long a usage to show.

    `groups`, headings with names of commands, order the commands in the help.
    """

    def __init__(self, *, groups: Mapping[str, Sequence[str]] | None = None, **named: Any) -> None:
        super().__init__(formatter_class=Help, **named)
        self._groups = groups
        for kind in (None, "store"):
            self.register("action", kind, _Option)
        self.register("action", "store_true", _Switch)

    def add_argument(self, *names: Any, group: str = "", **how: Any) -> argparse.Action:
        """Add an argument as argparse does; with `group`, under that heading of the help."""
        if not group:
            return super().add_argument(*names, **how)
        known = next((known for known in self._action_groups if known.title == group), None)
        return (known or self.add_argument_group(group)).add_argument(*names, **how)

    def format_help(self) -> str:
        """Return the help; of a parser with groups, its commands by group."""
        if self._groups is None:
            self.usage = self._short_usage()
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {self.usage}")
        formatter.add_text(self.description)
        for heading, commands in self._grouped():
            formatter.start_section(heading)
            formatter.add_arguments(commands)
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(action for action in self._actions if action.option_strings)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _short_usage(self) -> str:
        """Return the usage with what is required alone; a command may have sixty options."""
        formatter = self._get_formatter()
        required = [action for action in self._actions if action.required]
        formatter.add_usage(f"{self.prog} [options]", [], [], prefix="")
        formatter.add_usage(None, required, [], prefix="")
        short, long = formatter.format_help().split("\n\n", 1)
        return (short + " ".join(long.split()).removeprefix(self.prog)).replace("%", "%%")

    def _grouped(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        """Yield each heading with its commands, those of no group under a heading of their own."""
        (commands,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        waiting = {command.dest: command for command in commands._get_subactions()}
        for heading, names in (self._groups or {}).items():
            yield heading, [waiting.pop(name) for name in names if name in waiting]
        if waiting:
            yield "others", list(waiting.values())

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            (print_result if file is sys.stdout else print_message)(message.rstrip("\n"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(f"there is no command {value!r}; {nearest(value, action.choices)}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the reason in one line."""
        self.exit(2, f"captionkit: {message} (see `{self.prog} --help`)\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Exit for arguments that no option takes, naming the option that the first is nearest to."""
        first = next((argument for argument in unknown if argument.startswith("-")), unknown[0])
        known = [name for action in self._actions for name in present_names(action)]
        near = get_close_matches(first.partition("=")[0], known, n=1)
        self.error(f"{first} is not understood{f'; did you mean {near[0]}?' if near else ''}")
