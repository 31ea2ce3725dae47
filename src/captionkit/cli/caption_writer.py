"""`captionkit caption --sidecar, --write, --style`: captions beside images, and what was done at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from captionkit.cli.inputs import Input
from captionkit.errors import CaptionkitError
from captionkit.publish.alt_text import MAX_CHARS, alt_text, check_max_chars
from captionkit.publish.embedded import EmbeddedMetadata
from captionkit.publish.merging import Existing
from captionkit.publish.metadata import FIELDS, MetadataFields, MetadataStore, check_fields
from captionkit.publish.publisher import Destination, Publisher, Wording, inside
from captionkit.publish.text_sidecars import TextSidecars
from captionkit.publish.xmp_sidecars import XmpSidecars
from captionkit.utils import output_checks, paths
from captionkit.utils.console import print_message

_UNBOUND = 10_000

if TYPE_CHECKING:
    from captionkit.inference.captioner import Outcome


@dataclass(frozen=True)
class WriteOptions:
    """What is asked of `captionkit caption` and `captionkit watch` about where captions go and how they are worded."""

    sidecar: str | None = None
    output_dir: Path | None = None
    existing: Existing | None = None
    write: str | None = None
    fields: tuple[str, ...] | None = None
    prepend: str = ""
    append: str = ""
    dry_run: bool = False
    style: str | None = None
    max_chars: int | None = None

    @property
    def writes(self) -> bool:
        """Return whether anything is to be written."""
        return self.sidecar is not None or self.write is not None

    def check(self) -> None:
        """Raise CaptionkitError, before any work, for options that mean nothing together or cannot be met."""
        if self.max_chars is not None:
            if self.style != "alt":
                raise CaptionkitError("--max-chars is for alt text; add --style alt")
            check_max_chars(self.max_chars)
        texts: dict[str, object] = {"--output-dir": self.output_dir, "--prepend": self.prepend, "--append": self.append}
        _check_unused(texts if self.sidecar is None else {}, "text files; add --sidecar .txt")
        _check_unused({"--fields": self.fields} if self.write is None else {}, "metadata; add --write xmp")
        either: dict[str, object] = {"--existing": self.existing, "--dry-run": self.dry_run}
        _check_unused({} if self.writes else either, "captions that are written; add --sidecar .txt or --write xmp")
        if self.output_dir is not None:
            output_checks.check_output_folder(self.output_dir)
        if self.fields is not None:
            check_fields(self.fields)

    def publisher(self) -> Publisher:
        """Return what writes the captions. Raises CaptionkitError as `check` does."""
        self.check()
        destinations: list[Destination] = [*self._metadata()]
        if self.sidecar is not None:
            destinations.append(
                TextSidecars(
                    self.sidecar,
                    folder=self.output_dir,
                    existing=self.existing or "skip",
                    prepend=self.prepend,
                    append=self.append,
                    dry_run=self.dry_run,
                )
            )
        return Publisher(destinations, self._wording)

    def _metadata(self) -> Iterator[Destination]:
        stores: list[MetadataStore] = [XmpSidecars(look_inside=True)] if self.write in ("xmp", "both") else []
        if self.write in ("embed", "both"):
            stores.append(EmbeddedMetadata())
        for store in stores:
            yield MetadataFields(
                store, fields=self.fields or tuple(FIELDS), existing=self.existing or "skip", dry_run=self.dry_run
            )

    def _wording(self, outcome: Outcome) -> Wording:
        texts = [caption.text for caption in outcome.captions]
        if self.style == "alt":
            return Wording(texts[0], texts[0], " ".join(texts))
        guess = bool(outcome.caption and outcome.caption.review)
        alone = [alt_text([text], max_chars=_UNBOUND, guess=guess) for text in texts]
        return Wording(texts[0], alt_text(texts, max_chars=MAX_CHARS, guess=guess), " ".join(alone))


def _check_unused(flags: Mapping[str, object], what: str) -> None:
    for flag in [flag for flag, value in flags.items() if value]:
        raise CaptionkitError(f"{flag} is for {what}")


class CaptionWriter:
    """Writes the captions of one run through a `Publisher`, and counts."""

    def __init__(self, publisher: Publisher, named: Sequence[str], *, dry_run: bool = False) -> None:
        """Take what is named on the command line: of files named one by one, the tree begins where they all lie."""
        self._publisher, self._dry_run = publisher, dry_run
        folders = [str(Path(name).parent) for name in named if name != "-"]
        self._root = _common(folders)
        self._kept = self._images = self._changes = 0

    def without_kept(self, inputs: Iterator[Input]) -> Iterator[Input]:
        """Yield the inputs, marked as kept where the text stays, and with an error where none can be written."""
        for given in inputs:
            yield given if given.error else self._checked(given)

    def _checked(self, given: Input) -> Input:
        if not isinstance(given.source, str):
            return replace(
                given, error=f"{paths.shown(given.name)}: is no file of its own; unpack it to write beside it"
            )
        try:
            kept = not self._publisher.is_open(Path(given.source), self._relative(given))
        except CaptionkitError as error:
            return replace(given, error=str(error))
        self._kept += kept
        return replace(given, kept=kept)

    def write(self, given: Input, outcome: Outcome) -> Outcome:
        """Write the caption of an input; return the outcome, with the error in its place if that fails."""
        try:
            changes = self._publisher.write(Path(str(given.source)), self._relative(given), outcome)
        except CaptionkitError as error:
            return replace(outcome, caption=None, error=str(error))
        self._images += bool(changes)
        self._kept += not changes
        self._changes += len(changes)
        if self._dry_run:
            for change in changes:
                print_message(str(change))
        return outcome

    def sum_up(self) -> None:
        """Say how many images got a text, and how many kept theirs."""
        done = "would be written" if self._dry_run else "written"
        line = f"captionkit: {_images(self._images)} with a text {done}"
        if self._kept:
            line += f"; {_images(self._kept)} with a text already left alone"
        print_message(line)

    def _relative(self, given: Input) -> Path:
        return inside(str(given.source), given.root or self._root)


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"


def _common(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # none, relative and absolute ones, or several drives
        return ""
