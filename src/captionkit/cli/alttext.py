"""`captionkit alttext`: captions for the images of a site that lack alt text, written into its pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.publish.alt_text import MAX_CHARS, as_alt_text, check_max_chars
from captionkit.publish.site import Page, pages
from captionkit.utils import paths
from captionkit.utils.console import print_message, print_result
from captionkit.utils.progress import progress_bar

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner, Outcome


def fill_alt_text(
    site: Path,
    *,
    model: str | None = None,
    column: str = "",
    max_chars: int = MAX_CHARS,
    min_confidence: float | None = None,
    dry_run: bool = False,
    batch_size: int = 16,
    runtime: Runtime = USUAL_RUNTIME,
) -> int:
    """Fill the missing alt texts of a site; return the exit status, 0 only if none is missing any more.

    Each page is written once its images are captioned. With `dry_run`, print the difference instead.
    """
    check_max_chars(max_chars)
    found, problems = _survey(site, column)
    images = list(dict.fromkeys(image for page in found for image in page.images.values()))
    filling = _Filling(_outcomes(images, partial(runtime.load, model), max_chars, min_confidence, batch_size), dry_run)
    for page in found:
        filling.fill(page)
    problems += filling.problems
    for problem in problems:
        print_message(f"captionkit: {problem}")
    filling.sum_up(len(problems))
    return 1 if problems else 0


def _outcomes(
    images: Sequence[Path],
    load: Callable[[], Captioner],
    max_chars: int,
    min_confidence: float | None,
    batch_size: int,
) -> Iterator[tuple[Path, Outcome]]:
    """Yield the images with their alt texts; without images, the model is not loaded."""
    if not images:
        return
    captioner = load()
    settings: dict[str, Any] = {"num_captions": captioner.decoding.num_beams, "min_confidence": min_confidence}
    outcomes = captioner.stream(map(os.fspath, images), batch_size=batch_size, **settings)
    for image, outcome in zip(images, progress_bar(outcomes, len(images), "captioning"), strict=True):
        yield image, as_alt_text(outcome, max_chars=max_chars)


def _survey(site: Path, column: str) -> tuple[list[Page], list[str]]:
    found, problems = [], []
    for page in pages(site, column=column):
        if isinstance(page, CaptionkitError):
            problems.append(str(page))
        else:
            found.append(page)
            problems += page.problems.values()
    return found, problems


class _Filling:
    """Writes pages one after the other, with texts that come in the order in which the pages name their images."""

    def __init__(self, outcomes: Iterator[tuple[Path, Outcome]], dry_run: bool) -> None:
        self._outcomes, self._dry_run = outcomes, dry_run
        self._found: dict[Path, Outcome] = {}
        self.problems: list[str] = []
        self._pages = self._filled = 0

    def fill(self, page: Page) -> None:
        """Write a page, or in a dry run print what would change."""
        for image in page.images.values():
            while image not in self._found:
                known, outcome = next(self._outcomes)
                self._found[known] = outcome
                self.problems += [outcome.error] if outcome.error else []
        said = {image: found.caption for image in page.images.values() if (found := self._found[image]).caption}
        texts = {image: caption.text for image, caption in said.items() if caption}
        gaps = [gap for gap in page.gaps if page.images.get(gap.image) in texts]
        if not gaps:
            return
        try:
            print_result(page.diff(texts)) if self._dry_run else page.write(texts)
        except CaptionkitError as error:
            self.problems.append(str(error))
            return
        self._pages, self._filled = self._pages + 1, self._filled + len(gaps)
        for gap in gaps if not self._dry_run else ():
            caption = said[page.images[gap.image]]
            review = "\treview" if caption and caption.review else ""
            print_result(f"{paths.shown(page.path)}\t{gap.image}\t{texts[page.images[gap.image]]}{review}")

    def sum_up(self, problems: int) -> None:
        """Say how many alt texts were filled, and how many are still missing."""
        done = "would be filled" if self._dry_run else "filled"
        missing = f"; {problems} problem{'' if problems == 1 else 's'}" if problems else ""
        print_message(f"captionkit: {self._filled} alt texts {done} in {self._pages} files{missing}")
