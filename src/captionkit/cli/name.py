"""What `captionkit name` does: captions of class folders that say the name of the class in a sentence.

A captioning model that knows no names still knows what a bird does: made to say "bird" of an image, it says "a bird is
sitting on a branch". With the class's name in the place of the noun, that is a caption to learn from: "a northern
cardinal is sitting on a branch".
"""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from captionkit.data.layouts import open_dataset
from captionkit.data.layouts.class_folders import caption_of
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import BATCH
from captionkit.inference.load import load
from captionkit.utils import files
from captionkit.utils.progress import say, track

CAPTIONS = "captions.csv"
LAYOUT = "classes"
#: sentences that are told of an image, of which the best that is about the noun is taken
_SENTENCES = 5
#: the noun that a sentence is about stands among its first words: "a small black and white cat ...", not "a dog behind
#: a cat", which a model made to say "cat" says where it sees no cat
_SUBJECT = 6


@dataclass(frozen=True)
class Naming:
    """What was written: the file, how many images it captions, and how many of them by templates alone.

    failures: why other images are not in it.
    """

    file: Path
    images: int
    templates_only: int
    failures: list[str]

    def __str__(self) -> str:
        left_out = f", {len(self.failures):,} left out" if self.failures else ""
        return f"{self.file}: {self.images:,} images, {self.templates_only:,} of them by templates alone{left_out}"


def name_images(data: Path, noun: str, *, model: str | None = None, batch: int = BATCH) -> Naming:
    """Caption the class folders `data` with a model, put their names into the captions, and write data/captions.csv.

    `noun` is what the model calls all that the images show: a word, or words, of its vocabulary. An image of which no
    sentence is about the noun gets the captions of the templates, one that cannot be read is named and left out. Raises
    CaptionkitError where there are no class folders, the model lacks the noun, or captions.csv is there already.
    """
    file = data / CAPTIONS
    if os.path.lexists(file):
        raise CaptionkitError(f"{file}: is there already, and is not written over; move it away to make it anew")
    dataset = open_dataset(data, layout=LAYOUT)
    if not os.access(data, os.W_OK):  # better known before the work than after it
        raise CaptionkitError(
            f"{data}: cannot be written, and {CAPTIONS} belongs there; copy the images to another place"
        )
    images = [(split, example) for split, examples in dataset.items() for example in examples]
    outcomes = load(model).stream(
        [example.image for _, example in images],
        batch=batch,
        words=(noun,),
        beam=_SENTENCES,
        num_captions=_SENTENCES,
    )
    rows = [("image", "caption", "split", "class")]
    failures: list[str] = []
    templates_only = 0
    for (split, example), outcome in zip(images, track(outcomes, len(images), "captioning"), strict=True):
        if outcome.caption is None:
            failures.append(outcome.error)
            say(f"captionkit: {outcome.error}")
            continue
        sentences = (named(caption.text, noun, example.label) for caption in outcome.captions)
        sentence = next(filter(None, sentences), None)
        templates_only += sentence is None
        said = example.captions if sentence is None else (sentence,)
        rows += [(str(example.id), caption, split, example.label) for caption in said]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    files.write_text(file, buffer.getvalue())
    return Naming(file, len(images) - len(failures), templates_only, failures)


def named(sentence: str, noun: str, name: str) -> str | None:
    """The sentence with `name` in the place of `noun`, after "a" or "an" as it sounds.

    None unless it is about the noun: it holds it once, among its first words.
    """
    before, *after = re.split(rf"(?<![\w'-]){re.escape(noun)}(?![\w'-])", sentence)
    if len(after) != 1 or len(before.split()) >= _SUBJECT:
        return None
    return caption_of(f"{before}{{name}}{after[0]}", name)
