"""Report sections on the outcome of a run: key figures, table of results, scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from captionkit.data.run_files import BEST
from captionkit.errors import CaptionkitError
from captionkit.inference.model_folder import WEIGHTS, parameters_of
from captionkit.training.report.formatting import brief, device_of, minutes_of, number
from captionkit.training.report.run_data import RunData
from captionkit.viz.document import Block, Code, Paragraph, Table, TableRow

MEANINGS = {
    "CIDEr-D": "agreement with people's captions in runs of one to four words, rare ones weighing more; 0 to 10",
    "BLEU-1": "share of the words that people used too, less for captions that are too short; 0 to 1",
    "BLEU-2": "the same of one and two words in a row; 0 to 1",
    "BLEU-3": "the same of one to three words in a row; 0 to 1",
    "BLEU-4": "the same of one to four words in a row; 0 to 1",
    "METEOR": "words matched by form, stem, synonym and paraphrase, in order; 0 to 1",
    "ROUGE-L": "longest sequence of words in common with a person's caption; 0 to 1",
    "CLIPScore": "similarity of caption and image to a CLIP model; 0 to 2.5",
}


def key_figures(run_data: RunData) -> list[tuple[str, str, str]]:
    """Return the key figures that are shown in large type."""
    figures = []
    best = run_data.best
    scored: Mapping[str, float] = {}
    if run_data.whole:
        with suppress(CaptionkitError):  # the scores section reports why there are none
            scored = run_data.scores
    for name, key, said in (
        ("CIDEr-D", "cider", "of validation captions, 0 to 10, more is better"),
        ("BLEU-4", "bleu4", "of the same captions, 0 to 1, more is better"),
        ("CLIPScore", "clipscore", "of the same captions with their images, 0 to 2.5, more is better"),
    ):
        value = scored.get(name, best.get(key) if best else None)
        if value is not None:
            figures.append((name, f"{value:.3f}", said))
    if best and best.get("val_loss") is not None:
        figures.append(("Validation loss", f"{best['val_loss']:.3f}", "nats per word, less is better"))
    if run_data.kept:
        millions = parameters_of(run_data.kept.path / WEIGHTS) / 1e6
        figures.append(("Parameters", f"{brief(millions)} M", "numbers that the model consists of"))
    spent = minutes_of(run_data)
    if spent is not None:
        figures.append(("Time", f"{spent:.3g} min", f"on {device_of(run_data)}"))
    return figures


def results(run_data: RunData) -> list[Block]:
    """Return the table of results."""
    best = run_data.best
    if best is None:
        return [Paragraph("Nothing has been evaluated yet, so there is no model to tell of.", warning=True)]
    epochs, recipe = run_data.rows[-1]["epoch"], run_data.recipe
    rows = [
        TableRow("validation loss", [number(best.get("val_loss"))], "cross-entropy of people's words, nats per word"),
        TableRow("model size (MB)", [_size(run_data)], "weights on disk, in millions of bytes"),
        TableRow("parameters (M)", [_parameters(run_data)], "numbers that the model consists of, in millions"),
        TableRow(
            "epochs", [f"{epochs:.4g}"], f"passes over the training images; the model kept is of {best['epoch']:.4g}"
        ),
        TableRow("mode", [_mode(run_data)], "which encoder, what of it was trained, which decoder"),
        TableRow("batch size", [str(recipe.trainer.batch_size)], "images a step of the optimizer"),
        TableRow("device", [device_of(run_data)], "what the steps were computed on"),
        TableRow("minutes", [number(minutes_of(run_data), 1)], "of all sessions, evaluations and the rest included"),
    ]
    use = shlex.join(["captionkit", "caption", "PHOTO", "--model", str(run_data.path / BEST)])
    return [Table(["result", "value"], rows, across=True), Paragraph("To caption an image with it:"), Code(use)]


def scores(run_data: RunData) -> list[Block]:
    """Return the scores of the saved model's captions with intervals; for an unfinished run, the recorded ones."""
    if not run_data.whole:
        return _recorded(run_data)
    found = run_data.scores
    rows = []
    for name in [name for name in MEANINGS if name in found]:
        low, high = found.intervals.get(name, (float("nan"), float("nan")))
        rows.append(TableRow(name, [f"{found[name]:.3f}", f"{low:.3f} to {high:.3f}"], MEANINGS[name]))
    decoding = run_data.kept.decoding if run_data.kept else None
    how = f", beam {decoding.num_beams}, length penalty {decoding.length_penalty}" if decoding else ""
    resamples = f"{found.facts['resamples']:,} resamples of the images, seed {found.facts['seed']}"
    blocks: list[Block] = [
        Paragraph(
            f"Of the kept model's own captions of {len(found.ids):,} validation images{how}; "
            f"{found.facts['tokenizer']} tokens. Intervals hold the score in 95 % of {resamples}."
        ),
        Table(["score", "value", "95 % interval"], rows),
    ]
    variety = found.variety
    if variety:
        rows = [
            TableRow("distinct captions", [f"{variety.distinct:.1%}"], "different captions, as a share of all"),
            TableRow(
                "words a caption", [f"{variety.words:.1f}"], f"on average; from {variety.shortest} to {variety.longest}"
            ),
            TableRow("vocabulary", [f"{variety.vocabulary:,}"], "different words in all these captions"),
        ]
        blocks.append(Table(["variety", "value"], rows))
    return [*blocks, *(Paragraph(note, warning=True) for note in [*found.notes, *_doubts(run_data)])]


def _doubts(run_data: RunData) -> list[str]:
    """Return a warning if the captions score differently from the evaluation at which the model was saved."""
    best, found = run_data.best, run_data.scores
    recorded = best.get("cider") if best else None
    if recorded is None or "CIDEr-D" not in found or abs(found["CIDEr-D"] - recorded) < 0.01:
        return []
    return [
        f"CIDEr-D was {recorded:.3f} when the model was kept, and is {found['CIDEr-D']:.3f} of these captions; the "
        "data or the model has changed since"
    ]


def _recorded(run_data: RunData) -> list[Block]:
    best = run_data.best
    if best is None:
        return []
    names = (("cider", "CIDEr-D"), ("bleu4", "BLEU-4"), ("clipscore", "CLIPScore"))
    rows = [
        TableRow(name, [number(best.get(key))], MEANINGS[name])
        for key, name in names
        if key != "clipscore" or key in best
    ]
    note = "The other scores, their intervals and the best and worst captions come at the end of the run, or by:"
    command = shlex.join(["captionkit", "report", str(run_data.path)])
    return [Table(["score", "value"], rows), Paragraph(note), Code(command)]


def _size(run_data: RunData) -> str:
    files: Mapping[str, Any] = run_data.kept.config["files"] if run_data.kept else {}
    return f"{files[WEIGHTS]['bytes'] / 1e6:.1f}" if WEIGHTS in files else "unknown"


def _parameters(run_data: RunData) -> str:
    return f"{parameters_of(run_data.kept.path / WEIGHTS) / 1e6:.2f}" if run_data.kept else "unknown"


def _mode(run_data: RunData) -> str:
    encoder, decoder = run_data.architecture
    recipe = run_data.recipe.encoder
    trained = {"frozen": "frozen", "all": "trained whole", "stages": f"trained from stage {recipe.first_stage} on"}
    return f"{encoder} {trained[recipe.train]}, {decoder}"
