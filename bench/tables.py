"""Puts what benches measured into the documents: every file of bench/results/ between the markers of its name.

    python bench/tables.py [--check]

A bench writes its file with `--save bench/results/NAME.json`: sentences and tables, in the order in which they are
read. A document has its place for them between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError
from captionkit.utils.atomic_write import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
#: the document that has the report of each bench
DOCUMENTS = {
    "bulk": "docs/bulk.md",
    "foreign": "docs/speed.md",
    "metrics": "docs/evaluation.md",
    "quality": "docs/quality.md",
    "serve": "docs/serve.md",
    "speed": "docs/speed.md",
    "training": "docs/scale.md",
}

#: a report: sentences, and tables as {"columns": [...], "rows": [[...], ...]}
Report = list[str | dict[str, Any]]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a table of a report."""
    return {"columns": list(columns), "rows": [list(row) for row in rows]}


def figure(value: float) -> str:
    """Three digits, and no more after the point than they need."""
    for limit, shown in ((9.995, ".2f"), (99.95, ".1f")):
        if value < limit:
            return format(value, shown)
    return f"{value:,.0f}"


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    return "\n\n".join(block if isinstance(block, str) else _rows(block) for block in report) + "\n"


def _rows(block: dict[str, Any]) -> str:
    lines = [block["columns"], ["---"] * len(block["columns"]), *block["rows"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def add_save(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the option that says where the report goes."""
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help=f"the tables as JSON, such as bench/results/{name}.json"
    )


def tell(report: Report, save: Path | None) -> None:
    """Print a report, and save it where a path is given."""
    print(markdown(report))
    if save:
        write_text(save, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Report:
    """Return the report of a file. Raises CaptionkitError if it holds none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        markdown(report)
    except (ValueError, TypeError, KeyError) as error:
        raise CaptionkitError(f"{path}: holds no report of a bench ({error!r}); measure again with --save") from None
    return report


def with_report(document: Path, name: str, report: Report) -> str:
    """Return the text of a document with a report between the markers of `name`, in the place of the last one."""
    text = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise CaptionkitError(f"{document}: has no place for the report; put {begin} and {end} where it belongs")
    return f"{before}{begin}\n\n{markdown(report)}\n{end}{after}"


def update(root: Path, results: Path, *, check: bool = False) -> list[Path]:
    """Put all results into the documents below `root`; returns those that changed, or with `check` would change."""
    changed = []
    for path in sorted(results.glob("*.json")):
        if path.stem not in DOCUMENTS:
            raise CaptionkitError(f"{path}: no document is named for it; add one to DOCUMENTS of bench/tables.py")
        document = root / DOCUMENTS[path.stem]
        text = with_report(document, path.stem, read(path))
        if text != document.read_text(encoding="utf-8"):
            changed.append(document)
            if not check:
                write_text(document, text)
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Update the documents; with --check, only say which are not up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a document is not up to date")
    options = parser.parse_args(arguments)
    try:
        changed = update(ROOT, RESULTS, check=options.check)
    except (CaptionkitError, OSError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 1
    for document in changed:
        print(f"{document.relative_to(ROOT)}: {'not up to date' if options.check else 'updated'}")
    return 1 if changed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
