"""report.html and report.md of a run: results, curves, and how the run was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from captionkit import __version__
from captionkit.data.run_files import REPORT, REPORT_TEXT
from captionkit.errors import CaptionkitError, one_line
from captionkit.training.report import curves, examples, provenance, results
from captionkit.training.report.run_data import RunData, write_captions
from captionkit.utils import atomic_write, paths
from captionkit.viz.document import Block, Document, Paragraph, Section
from captionkit.viz.document_html import document_html
from captionkit.viz.document_markdown import document_markdown

__all__ = ["RunData", "write_captions", "write_report"]

#: sections in their order: heading, function, and whether they also appear in reports of unfinished runs
_SECTIONS: tuple[tuple[str, Callable[[RunData], list[Block]], bool], ...] = (
    ("Results", results.results, True),
    ("Scores", results.scores, True),
    ("Curves", curves.curves, True),
    ("Captions", examples.captions, True),
    ("Where the model looked", examples.attention, False),
    ("Speed", curves.speed, True),
    ("Data", provenance.data, True),
    ("Sessions", provenance.sessions, True),
    ("Made with", provenance.made_with, True),
    ("Recipe", provenance.recipe, True),
)


def write_report(run_data: RunData) -> Path:
    """Write report.html and report.md atomically; return the path of report.html.

    A section that fails is replaced by a line with the reason. Raises CaptionkitError if the folder cannot be written.
    """
    document = _document(run_data)
    atomic_write.write_text(run_data.path / REPORT_TEXT, document_markdown(document))
    atomic_write.write_text(run_data.path / REPORT, document_html(document))
    return run_data.path / REPORT


def _document(run_data: RunData) -> Document:
    sections = []
    for heading, tell, early in _SECTIONS:
        blocks = _told(tell, run_data) if early or run_data.whole else []
        if blocks:
            sections.append(Section(heading, blocks))
    try:
        (encoder, decoder), figures = run_data.architecture, results.key_figures(run_data)
    except Exception:  # the sections report the reason
        encoder, decoder, figures = run_data.recipe.encoder.name or "an encoder", run_data.recipe.decoder.name, []
    made_by = f"Written by captionkit {__version__}; `captionkit report {run_data.path}` rewrites it."
    return Document(f"{decoder} on {encoder}", _lead(run_data), figures, sections, made_by)


def _told(tell: Callable[[RunData], list[Block]], run_data: RunData) -> list[Block]:
    try:
        return tell(run_data)
    except Exception as error:
        reason = one_line(error)
        named = reason if isinstance(error, CaptionkitError) else f"{type(error).__name__}: {reason}"
        return [Paragraph(f"Not available: {named}", warning=True)]


def _lead(run_data: RunData) -> str:
    """Return one sentence that says which run this is and how far it got."""
    rows, best = run_data.rows, run_data.best
    epochs = f"{rows[-1]['epoch']:.4g}" if rows else "0"
    name = f"The run {paths.real(run_data.path).name}"
    data = f" on {run_data.data['name']}" if run_data.data.get("name") else ""
    if run_data.live:
        return f"{name}{data}, under way: {epochs} of {run_data.recipe.trainer.epochs} epochs so far."
    kept = f"; the model kept is that of epoch {best['epoch']:.4g}" if best else "; no model is kept yet"
    done = "stopped after" if run_data.sessions and not run_data.sessions[-1].done else "after"
    return f"{name}{data}, {done} {epochs} of at most {run_data.recipe.trainer.epochs} epochs{kept}."
