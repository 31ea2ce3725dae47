"""Report sections on the progress of a run: curves, speed, and where its time went."""

from __future__ import annotations

from statistics import median

from captionkit.data.run_files import CURVES
from captionkit.training.report.formatting import brief, minutes
from captionkit.training.report.run_data import RunData
from captionkit.viz.curves import curve_drawings
from captionkit.viz.document import Bars, Block, Drawings, Paragraph, Table, TableRow

#: what a session's seconds were spent on, in display order
_SPENT = {
    "features": "all images through the frozen encoder, once",
    "data": "waiting for images and captions",
    "steps": "forward and backward passes, and the optimizer",
    "evaluation": "loss and captions of the validation images, and their scores",
    "checkpoints": "saving all that --resume needs",
    "export": "ONNX graphs of the kept model, compared with torch",
    "report": "curves, samples and this report, as they were brought up to date",
    "other": "reading the data, building the model",
}


def curves(run_data: RunData) -> list[Block]:
    """Return the drawings of the metrics."""
    drawings = curve_drawings(run_data.rows)
    if not drawings:
        return [Paragraph("Nothing has been recorded yet that could be drawn.")]
    return [
        Paragraph("A step is one change of the weights. A star marks the model that is kept."),
        Drawings(drawings, CURVES),
    ]


def speed(run_data: RunData) -> list[Block]:
    """Return the training speed and where the time went."""
    rows = []
    tokens = [row["tokens_per_second"] for row in run_data.rows if row.get("tokens_per_second") is not None]
    if tokens:
        meaning = "words trained on, all processes together; median of the run"
        rows.append(TableRow("tokens a second", [f"{median(tokens):,.0f}"], meaning))
    if run_data.sessions:
        rows += _of_sessions(run_data)
    elif "minutes" in run_data.provenance:
        facts = run_data.provenance
        each = facts["minutes"] / max(facts["epoch"], 1e-9)
        rows.append(TableRow("minutes an epoch", [brief(each)], "evaluations included"))
    blocks: list[Block] = [Table(["speed", "value"], rows)] if rows else []
    spent: dict[str, float] = {}
    for session in run_data.sessions:
        for what, seconds in session.seconds.items():
            spent[what] = spent.get(what, 0.0) + seconds
    total = sum(spent.values())
    if total:
        known = [(what, spent[what], said) for what, said in _SPENT.items() if what in spent]
        shares = [(what, seconds / total, minutes(seconds), said) for what, seconds, said in known]
        blocks += [Paragraph(f"Where the {minutes(total)} went, in the main process:"), Bars(shares)]
    return blocks or [Paragraph("The run has left no times.")]


def _of_sessions(run_data: RunData) -> list[TableRow]:
    """Return rows on speed, computed from the epochs and seconds of all sessions."""
    learning, whole, epochs = 0.0, 0.0, 0.0
    for session in run_data.sessions:
        spent = session.seconds
        learning += spent.get("data", 0.0) + spent.get("steps", 0.0)
        whole += spent.get("evaluation", 0.0) + spent.get("checkpoints", 0.0)
        if session.step:
            epochs += session.epoch * (1 - session.first_step / session.step)
    images = run_data.data.get("train", {}).get("images", 0)
    if not (epochs and learning and images):
        return []
    return [
        TableRow("images a second", [brief(epochs * images / learning)], "trained on with all their captions"),
        TableRow("minutes an epoch", [brief(learning / epochs / 60)], "of training alone"),
        TableRow("with evaluations", [brief((learning + whole) / epochs / 60)], "minutes an epoch, checkpoints too"),
    ]
