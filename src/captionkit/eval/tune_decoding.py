"""`captionkit tune`: try beam sizes and length penalties on a captioned split, and keep those that score best."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from captionkit.data.layouts import CaptionSet, Example, captioned_split
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import BATCH, Captioner, batch_of
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.inference.search import Begun, Decoding, search
from captionkit.inference.word_constraints import constraints_of
from captionkit.metrics import evaluate
from captionkit.utils.progress import progress_bar
from captionkit.utils.text_table import text_table

LOG = logging.getLogger(__name__)

#: the score that decides, and the scores in the table
CHOOSES, TOLD = "CIDEr-D", ("CIDEr-D", "BLEU-4", "ROUGE-L")
#: the settings that vary between trials, with their headings
TRIED = {
    "num_beams": "beams",
    "length_penalty": "length penalty",
    "no_repeat_ngram_size": "no repeat",
    "early_stop_horizon": "horizon",
}
_METRICS = ("bleu", "rouge", "cider")
_READERS = 2


@dataclass(frozen=True)
class Trial:
    """One decoding configuration, with its scores and the mean number of words of its captions."""

    decoding: Decoding
    scores: dict[str, float]
    words: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        chosen = self.decoding
        tried = {name: getattr(chosen, name) for name in TRIED}
        return {
            **tried,
            **{name: round(value, 4) for name, value in self.scores.items()},
            "words": round(self.words, 2),
        }


@dataclass(frozen=True)
class Tuning:
    """The trials in the order requested, and the best of them."""

    data: dict[str, str]
    trials: list[Trial]
    best: Trial

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        trials = [trial.to_dict() for trial in self.trials]
        return {"data": self.data, "chosen_by": CHOOSES, "trials": trials, "best": self.best.to_dict()}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", *TRIED.values(), *TOLD, "words")]
        for trial in self.trials:
            chosen, scores = trial.decoding, [f"{trial.scores[name]:.4f}" for name in TOLD]
            tried = (f"{getattr(chosen, name):g}" for name in TRIED)
            rows.append(("*" if trial is self.best else "", *tried, *scores, f"{trial.words:.1f}"))
        return "\n".join(text_table(rows))


def tune_model(
    model: str,
    data: str | Path,
    *,
    split: str = "val",
    num_beams: Sequence[int] = (1, 3, 5),
    length_penalties: Sequence[float] = (0.5, 0.7, 0.85, 1.0, 1.2),
    no_repeat_ngram_sizes: Sequence[int] = (3,),
    early_stop_horizons: Sequence[int] | None = None,
    write: bool = False,
    runtime: Runtime = USUAL_RUNTIME,
) -> Tuning:
    """Caption `split` with every combination, encoding the images once, and choose the one with the highest CIDEr-D.

    Without `early_stop_horizons` the model's own is kept. Among equal scores the smaller beam is chosen. `write` stores
    the choice as the model folder's decoding settings. The choice is made on the split that scores it, so its reported
    score is slightly optimistic. Raises CaptionkitError.
    """
    caption_set = captioned_split(data, split)
    captioner = runtime.load(model)
    if write:
        captioner.folder.check_storable()
    found = [
        Decoding(**{**captioner.decoding.to_dict(), "num_captions": 1, **dict(zip(TRIED, settings, strict=True))})
        for settings in product(
            num_beams,
            length_penalties,
            no_repeat_ngram_sizes,
            early_stop_horizons or (captioner.decoding.early_stop_horizon,),
        )
    ]
    if not found:
        raise CaptionkitError("nothing to try; give at least one number for each option")
    trials = _trials(captioner, caption_set, found)
    # Sorting is stable, so among equal scores the first stays first.
    best = max(sorted(trials, key=lambda trial: trial.decoding.num_beams), key=lambda trial: trial.scores[CHOOSES])
    described = {"name": caption_set.name, "split": caption_set.split, "fingerprint": caption_set.fingerprint()}
    tuning = Tuning(described, trials, best)
    if write:
        captioner.folder.store({"decoding": best.decoding.to_dict(), "tuning": tuning.to_dict()})
        if captioner.folder.confidence and best.decoding != captioner.decoding:
            LOG.warning("%s: confidence was fitted to other decoding; `captionkit calibrate` refits it", model)
    return tuning


def _trials(captioner: Captioner, caption_set: CaptionSet, tried: Sequence[Decoding]) -> list[Trial]:
    said: list[dict[int | str, str]] = [{} for _ in tried]
    tokenizer = captioner.tokenizer
    for examples, images in _read(captioner, caption_set, tried):
        begun = Begun(captioner.stepper.begin(images), images)
        for captions, decoding in zip(said, tried, strict=True):
            constraints = constraints_of(decoding, tokenizer)
            hypotheses = search(captioner.stepper, begun, decoding, tokenizer.special, constraints=constraints)
            for example, found in zip(examples, hypotheses, strict=True):
                captions[example.id] = tokenizer.decode(found[0].tokens.tolist()) if found else ""
    if not said[0]:
        raise CaptionkitError(f"{caption_set.name}: no image of split {caption_set.split!r} could be read")
    return [_scored(captions, caption_set, decoding) for captions, decoding in zip(said, tried, strict=True)]


def _scored(captions: dict[int | str, str], caption_set: CaptionSet, decoding: Decoding) -> Trial:
    scores = evaluate(captions, caption_set, list(_METRICS), resamples=0)
    words = float(np.mean([len(caption.split()) for caption in captions.values()]))
    return Trial(decoding, {name: scores[name] for name in TOLD}, words)


def _read(
    captioner: Captioner, caption_set: CaptionSet, tried: Sequence[Decoding]
) -> Iterator[tuple[list[Example], np.ndarray]]:
    """Yield the readable images [B,...], a batch at a time; report the errors of the others."""
    size = min(captioner.limit_batch(BATCH, decoding) for decoding in tried)
    chunks = [caption_set.examples[start : start + size] for start in range(0, len(caption_set), size)]
    with ThreadPoolExecutor(_READERS) as pool:
        for chunk in progress_bar(chunks, len(chunks), "captioning"):
            opened = list(pool.map(lambda example: _open(captioner, example), chunk))
            good = [(example, image) for example, image in zip(chunk, opened, strict=True) if image is not None]
            if good:
                yield [example for example, _ in good], batch_of([image for _, image in good])


def _open(captioner: Captioner, example: Example) -> np.ndarray | None:
    opened = captioner.open(example.image)
    if opened.error is not None:
        LOG.warning("%s", opened.error)
    return opened.pixels
