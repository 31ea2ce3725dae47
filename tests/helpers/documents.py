"""README and docs/ as tests read them: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: every page with commands, by its path from the root
PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
_SHELLS = ("sh", "bash", "console")
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def is_shell(self) -> bool:
        return self.language in _SHELLS

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without comments; one if they belong together, as those of a loop do."""
        text = self.text.replace("\\\n", " ")
        if re.search(r"^(for|cd) ", text, re.MULTILINE):
            return [text]
        lines = (re.sub(r"(^|\s+)#(\s.*)?$", "", line) for line in text.splitlines())
        return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]


def blocks(page: str) -> Iterator[Block]:
    """Yield the shell and Python blocks of a page, in order."""
    for _, language, text in _FENCE.findall(text_of(page)):
        if language in (*_SHELLS, "python"):
            yield Block(language, text)


def shell_commands(page: str) -> list[str]:
    return [command for block in blocks(page) if block.is_shell for command in block.commands]
