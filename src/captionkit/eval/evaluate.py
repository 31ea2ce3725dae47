"""`captionkit evaluate`: caption a split, score it, and show the best, middle and worst captions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from captionkit.data.images import open_image
from captionkit.data.layouts import CaptionSet, Example, open_dataset
from captionkit.data.tokenizer import split_words
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Captioner
from captionkit.inference.figures import attention_of
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.inference.results import ResultsFile
from captionkit.inference.search import Decoding
from captionkit.metrics import Metric, Scores, evaluate
from captionkit.metrics.evaluation import check_metrics, check_numbers, make_metrics
from captionkit.utils import atomic_write, output_checks
from captionkit.utils.progress import progress_bar
from captionkit.utils.provenance import command_line, versions
from captionkit.viz.page import Card, sectioned_page

LOG = logging.getLogger(__name__)

RESULTS, SCORES, GALLERY = "results.json", "scores.json", "gallery.html"

_CARDS = 4  # in each group of the gallery
_PHOTO = (1024, 1024)
_RANKED_BY = "CIDEr-D"


@dataclass(frozen=True)
class Evaluation:
    """The result: the scores, the folder that contains them, and the errors of images that could not be captioned."""

    scores: Scores
    folder: Path
    failures: list[str]


def evaluate_model(
    model: str,
    data: str | Path,
    output: Path,
    *,
    split: str,
    metrics: Sequence[str | Metric] | None = None,
    batch_size: int = 16,
    decoding: dict[str, Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    runtime: Runtime = USUAL_RUNTIME,
) -> Evaluation:
    """Caption `split` of the dataset at `data`, score it, and write results.json, scores.json and gallery.html.

    An image that cannot be captioned is reported and left out. Raises CaptionkitError if none can be captioned, or if
    the arguments are invalid.
    """
    # Fail before the work, not after it.
    wanted, left_out = check_metrics(metrics)
    check_numbers(resamples, seed)
    if batch_size < 1:
        raise CaptionkitError(f"batch_size is {batch_size}; use a whole number from 1")
    _check_output(output, [data, model])
    dataset = open_dataset(data)
    caption_set = dataset.split(split)
    if not any(example.captions for example in caption_set):
        raise CaptionkitError(f"{data}: no image of split {split!r} has a caption to compare with")
    captioner = runtime.load(model)
    measures: list[str | Metric] = [*make_metrics(wanted), *(name for name in wanted if name == "diversity")]
    chosen = replace(captioner.decoding, **(decoding or {}))
    captioner.decoding = chosen
    started = time.monotonic()
    said, failures = _captions(captioner, caption_set, output / RESULTS, batch_size)
    if not said:
        raise CaptionkitError(f"{data}: no image of split {split!r} could be captioned; the first: {failures[0]}")
    training = dataset["train"] if "train" in dataset and caption_set.split != "train" else ()
    scores = evaluate(
        {example.id: said[str(example.id)] for example in caption_set if str(example.id) in said},
        caption_set,
        measures,
        images={example.id: example.image for example in caption_set},
        training=[caption for example in training for caption in example.captions] or None,
        resamples=resamples,
        seed=seed,
    )
    scores.notes.extend([*left_out, *_named(said, caption_set)])
    made = _made_by(captioner, caption_set, chosen, round(time.monotonic() - started, 1))
    atomic_write.write_text(
        output / SCORES, json.dumps({**scores.to_dict(), **made}, ensure_ascii=False, indent=1, default=str) + "\n"
    )
    atomic_write.write_text(output / GALLERY, _gallery(captioner, caption_set, scores, made))
    return Evaluation(scores, output, failures)


def _check_output(output: Path, inputs: Sequence[str | Path]) -> None:
    """Refuse, before any work, a folder in which a file not written by an earlier evaluation would be replaced."""
    output_checks.check_output_folder(output, inputs=inputs)
    proofs = {RESULTS: output_checks.is_captions, SCORES: output_checks.is_scores, GALLERY: output_checks.is_page}
    for name, proof in proofs.items():
        output_checks.check_output_file(output / name, proof, inputs=inputs)


def _captions(
    captioner: Captioner, caption_set: CaptionSet, results: Path, batch_size: int
) -> tuple[dict[str, str], list[str]]:
    """Return the captions by image id as text, and the errors of the other images."""
    said: dict[str, str] = {}
    failures = []
    outcomes = captioner.stream([example.image for example in caption_set], batch_size=batch_size)
    # Scores of an earlier evaluation must not remain beside new results.
    with ResultsFile(results, outdated=[results.with_name(name) for name in (SCORES, GALLERY)]) as file:
        for example, outcome in zip(caption_set, progress_bar(outcomes, len(caption_set), "captioning"), strict=True):
            if outcome.caption is None:
                failures.append(outcome.error)
                LOG.warning("%s", outcome.error)
                continue
            said[str(example.id)] = outcome.caption.text
            file.add({"path": example.name, "image_id": example.id, "captions": [outcome.caption.to_dict()]})
    return said, failures


def _named(said: dict[str, str], caption_set: CaptionSet) -> list[str]:
    """Return a note on how many captions contain the class name of their image.

    No note if no image has a class label.
    """
    known = [
        (example.label, said[str(example.id)]) for example in caption_set if example.label and str(example.id) in said
    ]
    if not known:
        return []
    names, captions = (split_words(texts) for texts in zip(*known, strict=True))
    right = sum(
        f" {' '.join(name)} " in f" {' '.join(caption)} " for name, caption in zip(names, captions, strict=True)
    )
    return [f"captions that name the class of their image: {right:,} of {len(known):,} ({right / len(known):.1%})"]


def _made_by(captioner: Captioner, caption_set: CaptionSet, decoding: Decoding, seconds: float) -> dict[str, Any]:
    """Return what is needed to reproduce the scores."""
    folder = captioner.folder
    return {
        "command": command_line(),
        "model": {"path": str(folder.path), "files": {name: f["sha256"] for name, f in folder.config["files"].items()}},
        "data": {"name": caption_set.name, "split": caption_set.split, "fingerprint": caption_set.fingerprint()},
        "decoding": decoding.to_dict(),
        "seconds": seconds,
        "versions": {**versions("numpy", "onnxruntime", "tokenizers"), "PIL": PIL.__version__},
    }


def _gallery(captioner: Captioner, caption_set: CaptionSet, scores: Scores, made: dict[str, Any]) -> str:
    examples = {str(example.id): example for example in caption_set}
    by = _RANKED_BY if _RANKED_BY in scores else next(iter(scores), "")
    order = _ranked(scores, by) if by else np.arange(len(scores.ids))
    sections = []
    for heading, places in _groups(order).items():
        cards = [_card(captioner, examples[str(scores.ids[place])], scores, place) for place in places]
        sections.append((f"{heading} by {by}" if by else heading, cards))
    figures = []
    for name, value in scores.items():
        low, high = scores.intervals.get(name, (value, value))
        figures.append((name, f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if high > low else "")))
    note = f"{made['data']['name']}, split {made['data']['split']}: {len(scores.ids):,} images. {made['command']}"
    return sectioned_page("Captions, from the best to the worst", sections, note=note, figures=figures)


def _ranked(scores: Scores, by: str) -> np.ndarray:
    """Return the indices of the images, best caption first."""
    values = scores.per_image[by]
    return np.argsort(values if by in scores.less_is_better else -values, kind="stable")


def _groups(order: np.ndarray) -> dict[str, np.ndarray]:
    """Return the indices of the best, middle and worst captions without overlap.

    With few images, groups may be missing.
    """
    each = min(_CARDS, max(1, len(order) // 3))
    middle = len(order) // 2 - each // 2
    worst = order[max(each, len(order) - each) :][::-1]
    groups = {"Best": order[:each], "Middling": order[middle : middle + each], "Worst": worst}
    if len(order) < 3:
        del groups["Middling"]
    return {heading: places for heading, places in groups.items() if len(places)}


def _card(captioner: Captioner, example: Example, scores: Scores, place: int) -> Card:
    caption = captioner.caption(example.image)  # caption again for its attention: keeping all maps would fill memory
    return Card(
        photo=open_image(example.image, target=_PHOTO),
        caption=caption.text,
        confidence=caption.confidence,
        unsure=captioner.sure_from is not None and caption.confidence < captioner.sure_from,
        references=example.captions,
        attention=attention_of(captioner, example.image, caption),
        scores={name: float(values[place]) for name, values in scores.per_image.items()},
        label=example.name,
    )
