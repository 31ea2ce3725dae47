"""`captionkit name`: caption class folders with sentences that contain the class name.

A captioning model that does not know a class name still knows what a bird does: forced to use the word "bird", it
writes "a bird is sitting on a branch". With the class name in place of that noun, the sentence is a training caption:
"a northern cardinal is sitting on a branch".
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
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.utils import atomic_write
from captionkit.utils.console import print_message
from captionkit.utils.progress import progress_bar

CAPTIONS = "captions.csv"
LAYOUT = "classes"
#: sentences generated per image; the best one whose subject is the noun is used
_SENTENCES = 5
#: the noun must be among the first words, as a subject is: "a small black and white cat ...", not "a dog behind a cat",
#: which a model forced to say "cat" writes where it sees no cat
_SUBJECT = 6


@dataclass(frozen=True)
class Naming:
    """The result: the file, the number of images captioned in it, and how many of them by templates alone.

    failures: the reasons why other images are left out.
    """

    file: Path
    images: int
    templates_only: int
    failures: list[str]

    def __str__(self) -> str:
        left_out = f", {len(self.failures):,} left out" if self.failures else ""
        return f"{self.file}: {self.images:,} images, {self.templates_only:,} of them by templates alone{left_out}"


def name_images(
    data: Path, noun: str, *, model: str | None = None, batch_size: int = BATCH, runtime: Runtime = USUAL_RUNTIME
) -> Naming:
    """Caption the class folders `data` with a model, insert the class names, and write data/captions.csv.

    `noun` is the word or phrase in the model's vocabulary for everything the images show. An image without a sentence
    about the noun gets the template captions; one that cannot be read is reported and left out. Raises CaptionkitError
    if there are no class folders, the vocabulary lacks the noun, or captions.csv already exists.
    """
    file = data / CAPTIONS
    if os.path.lexists(file):
        raise CaptionkitError(f"{file}: is there already, and is not written over; move it away to write it again")
    dataset = open_dataset(data, layout=LAYOUT)
    if not os.access(data, os.W_OK):  # fail before the work, not after it
        raise CaptionkitError(
            f"{data}: cannot be written, and {CAPTIONS} belongs there; copy the images to another place"
        )
    images = [(split, example) for split, examples in dataset.items() for example in examples]
    outcomes = runtime.load(model).stream(
        [example.image for _, example in images],
        batch_size=batch_size,
        force_words=(noun,),
        num_beams=_SENTENCES,
        num_captions=_SENTENCES,
    )
    rows = [("image", "caption", "split", "class")]
    failures: list[str] = []
    templates_only = 0
    for (split, example), outcome in zip(images, progress_bar(outcomes, len(images), "captioning"), strict=True):
        if outcome.caption is None:
            failures.append(outcome.error)
            print_message(f"captionkit: {outcome.error}")
            continue
        sentences = (named(caption.text, noun, example.label) for caption in outcome.captions)
        sentence = next(filter(None, sentences), None)
        templates_only += sentence is None
        said = example.captions if sentence is None else (sentence,)
        rows += [(str(example.id), caption, split, example.label) for caption in said]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    atomic_write.write_text(file, buffer.getvalue())
    return Naming(file, len(images) - len(failures), templates_only, failures)


def named(sentence: str, noun: str, name: str) -> str | None:
    """Return the sentence with `name` in place of `noun`, with "a" or "an" as its sound requires.

    Return None unless the noun occurs exactly once and among the first words.
    """
    before, *after = re.split(rf"(?<![\w'-]){re.escape(noun)}(?![\w'-])", sentence)
    if len(after) != 1 or len(before.split()) >= _SUBJECT:
        return None
    return caption_of(f"{before}{{name}}{after[0]}", name)
