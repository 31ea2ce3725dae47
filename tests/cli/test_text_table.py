"""Tables of plain text."""

from __future__ import annotations

from captionkit.utils.text_table import text_table


def test_columns_are_aligned_by_the_width_on_a_terminal_and_nothing_is_markup() -> None:
    rows = [("name", "", "score"), ("日本", "*", "9.5"), ("[bold]x", "", "10")]
    assert text_table(rows, left=(0,)) == ["name        score", "日本     *    9.5", "[bold]x        10"]


def test_a_long_cell_is_not_wrapped() -> None:
    assert text_table([("x" * 500, "1")]) == ["x" * 500 + "  1"]
