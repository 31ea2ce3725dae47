"""Tables of plain text."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

#: wider than any table, so that no cell is wrapped
_WIDTH = 10_000


def text_table(rows: Sequence[Sequence[str]], *, left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table of `rows`; cells of the columns in `left` are aligned left, others right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for place in range(len(rows[0])):
        table.add_column(justify="left" if place in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
