"""What a report is made of: everything that a run folder knows, and the images that it was validated on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from captionkit.data.layouts import CaptionSet
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.captioner import Captioner
from captionkit.inference.load import load
from captionkit.inference.model_folder import ModelFolder, open_model
from captionkit.metrics import Scores, evaluate
from captionkit.metrics.frequencies import DocumentFrequencies
from captionkit.metrics.scoring import USUAL
from captionkit.metrics.tokens import TOKENIZERS, tokenizer_of
from captionkit.training.config.recipe import Recipe
from captionkit.training.run.run_dir import BEST, CAPTIONS
from captionkit.training.run.sessions import Session
from captionkit.utils import files
from captionkit.viz.page import Card


def load_kept(folder: ModelFolder) -> Captioner:
    """A captioner of a kept model: by its ONNX graphs, or by torch where it has none."""
    if folder.runnable:
        return load(folder.path)
    from captionkit.models.serialization import load_model
    from captionkit.models.stepper import TorchStepper

    return Captioner(folder, TorchStepper(load_model(folder)))


@dataclass
class RunData:
    """What is known of a run."""

    path: Path
    recipe: Recipe
    rows: Sequence[Mapping[str, Any]]
    sittings: Sequence[Session]
    #: the validation split, where it is at hand
    val: CaptionSet | None = None
    #: why it is not
    missing: str = "the validation images are not at hand"
    #: images of an evaluation in the middle of the run
    shown: Sequence[Card] = ()
    #: whether to tell all; else what takes no time
    whole: bool = True
    #: whether the run is going on
    live: bool = False
    load: Callable[[ModelFolder], Captioner] = field(default=load_kept, repr=False)

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """Rows of evaluations."""
        return [row for row in self.rows if row["kind"] == "eval"]

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The row of the evaluation whose model is kept."""
        return next((row for row in reversed(self.evaluations) if row["best"]), None)

    @property
    def data(self) -> Mapping[str, Any]:
        """What the last sitting says of the data, or else the kept model."""
        if self.sittings and self.sittings[-1].data:
            return self.sittings[-1].data
        facts = self.provenance
        pictures, data = facts.get("pictures", {}), facts.get("data", {})
        splits = {
            what: {"split": self.recipe.value(f"data.{what}_split"), "pictures": n} for what, n in pictures.items()
        }
        if "train" in splits:
            splits["train"]["fingerprint"] = data.get("fingerprint", "")
        return {"name": data.get("name", ""), **splits}

    @cached_property
    def kept(self) -> ModelFolder | None:
        """The kept model; None before the first evaluation."""
        try:
            return open_model(self.path / BEST)
        except ModelError:
            return None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the kept model says of how it was made."""
        return self.kept.config.get("provenance", {}) if self.kept else {}

    @property
    def architecture(self) -> tuple[str, str]:
        """Encoder and decoder, in words."""
        recipe = self.recipe
        encoder, decoder = recipe.encoder.name, {"name": recipe.decoder.name, "kind": recipe.decoder.kind}
        if self.kept:  # a run that starts from a model has that one's
            stored = self.kept.section("architecture")
            encoder, decoder = stored["encoder"]["name"], stored["decoder"]
        kind = f" ({decoder['kind']} attention)" if decoder["name"] == "show-attend-tell" else ""
        return str(encoder), f"{decoder['name']}{kind}"

    @cached_property
    def said(self) -> dict[Any, str]:
        """The kept model's captions of the validation split, by image id; made now where the run left none.

        Raises CaptionkitError where there are none and none can be made.
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
        """Scores of those captions, with intervals. Raises CaptionkitError where there is nothing to score."""
        if isinstance(self._scored, CaptionkitError):
            raise self._scored
        return self._scored

    @cached_property
    def _scored(self) -> Scores | CaptionkitError:
        """The scores, or why there are none: several parts of a report ask, and to try takes long."""
        try:
            if self.val is None:
                return CaptionkitError(self.missing)
            return evaluate(self.said, self.val, frequencies=self._frequencies)
        except CaptionkitError as error:  # METEOR's data may be damaged, or its index find no place
            return self._scored_without_meteor(error)

    @property
    def _frequencies(self) -> DocumentFrequencies:
        """CIDEr's frequencies as the evaluations of the run count them: over images that cannot be read, too."""
        references = [example.captions for example in self.val or ()]
        split_up = TOKENIZERS[tokenizer_of(references)]
        flat = iter(split_up(caption for some in references for caption in some))
        return DocumentFrequencies.of([[next(flat) for _ in some] for some in references])

    def _scored_without_meteor(self, reason: CaptionkitError) -> Scores | CaptionkitError:
        try:
            wanted = [name for name in USUAL if name != "meteor"]
            scores = evaluate(self.said, self.val, wanted, frequencies=self._frequencies)
        except CaptionkitError as error:
            return error
        scores.notes.append(f"METEOR is left out: {reason}")
        return scores


def write_captions(run: Path, said: Mapping[Any, str]) -> None:
    """Keep captions by image id as COCO results, atomically. Raises CaptionkitError."""
    results = [{"image_id": known, "caption": caption} for known, caption in said.items()]
    files.write_text(run / CAPTIONS, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
