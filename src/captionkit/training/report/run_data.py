"""The input of a report: everything stored in a run folder, and the validation images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from captionkit.data.layouts import CaptionSet
from captionkit.data.run_files import BEST, CAPTIONS
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.captioner import Captioner
from captionkit.inference.load import load
from captionkit.inference.model_folder import ModelFolder, open_model
from captionkit.metrics import Scores, evaluate
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.evaluation import USUAL
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.training.config.recipe import Recipe
from captionkit.training.run.sessions import Session
from captionkit.utils import atomic_write
from captionkit.utils.grouping import map_groups
from captionkit.viz.page import Card


def load_best_model(folder: ModelFolder) -> Captioner:
    """Load a captioner for a saved model: from its ONNX graphs, or with torch if it has none."""
    if folder.runnable:
        return load(folder.path)
    from captionkit.models.serialization import load_model
    from captionkit.models.torch_stepper import TorchStepper

    return Captioner(folder, TorchStepper(load_model(folder)))


@dataclass
class RunData:
    """Recipe, metrics, sessions, saved model and validation data of a run."""

    path: Path
    recipe: Recipe
    rows: Sequence[Mapping[str, Any]]
    sessions: Sequence[Session]
    #: the validation split, if available
    val: CaptionSet | None = None
    #: why it is not available
    missing: str = "the validation images are not at hand"
    #: sample images of the latest evaluation
    shown: Sequence[Card] = ()
    #: whether to write the full report; otherwise only the parts that are cheap to compute
    whole: bool = True
    #: whether the run is in progress
    live: bool = False
    load: Callable[[ModelFolder], Captioner] = field(default=load_best_model, repr=False)

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """The metrics rows of evaluations."""
        return [row for row in self.rows if row["kind"] == "eval"]

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The metrics row of the evaluation whose model was saved."""
        return next((row for row in reversed(self.evaluations) if row["best"]), None)

    @property
    def data(self) -> Mapping[str, Any]:
        """Facts about the data, from the last session or else from the saved model."""
        if self.sessions and self.sessions[-1].data:
            return self.sessions[-1].data
        facts = self.provenance
        images, data = facts.get("images", facts.get("pictures", {})), facts.get("data", {})  # "pictures" until 0.1
        splits = {what: {"split": self.recipe.value(f"data.{what}_split"), "images": n} for what, n in images.items()}
        if "train" in splits:
            splits["train"]["fingerprint"] = data.get("fingerprint", "")
        return {"name": data.get("name", ""), **splits}

    @cached_property
    def kept(self) -> ModelFolder | None:
        """The saved model; None before the first evaluation."""
        try:
            return open_model((self.path / BEST).absolute())  # "run/best" could be a Hub id
        except ModelError:
            return None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The provenance stored with the saved model."""
        return self.kept.config.get("provenance", {}) if self.kept else {}

    @property
    def architecture(self) -> tuple[str, str]:
        """Names of encoder and decoder."""
        recipe = self.recipe
        encoder, decoder = recipe.encoder.name, {"name": recipe.decoder.name, "kind": recipe.decoder.kind}
        if self.kept:  # a run that starts from a model takes over its architecture
            stored = self.kept.section("architecture")
            encoder, decoder = stored["encoder"]["name"], stored["decoder"]
        kind = f" ({decoder['kind']} attention)" if decoder["name"] == "show-attend-tell" else ""
        return str(encoder), f"{decoder['name']}{kind}"

    @cached_property
    def said(self) -> dict[Any, str]:
        """The saved model's captions of the validation split, by image id; generated now if the run stored none.

        Raises CaptionkitError if there are none and they cannot be generated.
        """
        try:
            results = json.loads((self.path / CAPTIONS).read_text(encoding="utf-8"))
            return {result["image_id"]: result["caption"] for result in results}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if self.val is None or self.kept is None:
            raise CaptionkitError(f"no {CAPTIONS}, and it cannot be made: {self.missing}")
        outcomes = self.load(self.kept).stream([example.image for example in self.val])
        said = {e.id: o.caption.text for e, o in zip(self.val, outcomes, strict=True) if o.caption}
        write_captions(self.path, said)
        return said

    @property
    def scores(self) -> Scores:
        """Scores of those captions, with intervals. Raises CaptionkitError if there is nothing to score."""
        if isinstance(self._scored, CaptionkitError):
            raise self._scored
        return self._scored

    @cached_property
    def _scored(self) -> Scores | CaptionkitError:
        """The scores or the error, cached because several sections need them and computing them is slow."""
        if self.val is None:
            return CaptionkitError(self.missing)
        try:
            return evaluate(self.said, self.val, frequencies=self._frequencies)
        except CaptionkitError as error:  # METEOR's data may be damaged, or there is no space for its index
            return self._scored_without_meteor(self.val, error)

    @property
    def _frequencies(self) -> DocumentFrequencies:
        """CIDEr's document frequencies, counted as in the run's evaluations: images that cannot be read included."""
        references = [example.captions for example in self.val or ()]
        return DocumentFrequencies.of(map_groups(TOKENIZERS[tokenizer_of(references)], references))

    def _scored_without_meteor(self, val: CaptionSet, reason: CaptionkitError) -> Scores | CaptionkitError:
        try:
            wanted = [name for name in USUAL if name != "meteor"]
            scores = evaluate(self.said, val, wanted, frequencies=self._frequencies)
        except CaptionkitError as error:
            return error
        scores.notes.append(f"METEOR is left out: {reason}")
        return scores


def write_captions(run: Path, said: Mapping[Any, str]) -> None:
    """Write captions by image id in the COCO results format, atomically. Raises CaptionkitError."""
    results = [{"image_id": known, "caption": caption} for known, caption in said.items()]
    atomic_write.write_text(run / CAPTIONS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
