"""`captionkit watch`: caption images as they arrive in a folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.cli.caption import outcomes_of, style_of
from captionkit.cli.caption_writer import CaptionWriter, WriteOptions
from captionkit.cli.inputs import Input
from captionkit.errors import CaptionkitError
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.publish.arrivals import QUIET, Arrivals, images_below, is_arrival
from captionkit.utils import paths
from captionkit.utils.console import print_message, print_result

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner, Outcome

_BATCH = 16
_TICK = 500  # milliseconds between looks at files that are not whole yet


def watch_folder(
    folder: Path,
    write: WriteOptions,
    *,
    model: str | None = None,
    decoding: dict[str, Any] | None = None,
    min_confidence: float | None = None,
    quiet: float = QUIET,
    runtime: Runtime = USUAL_RUNTIME,
    stop: threading.Event | None = None,
) -> int:
    """Caption the images in a folder that lack a text, and from then on those that arrive, until `stop` or a signal.

    What was done stands beside the images, so a restart goes on with what came meanwhile. A file is left alone until it
    has not changed for `quiet` seconds and no process writes it.
    """
    if not write.writes:
        raise CaptionkitError("captions are kept beside the images that arrive; add --sidecar .txt or --write xmp")
    if paths.kind_of(folder) != "folder":
        raise CaptionkitError(f"{paths.shown(folder)}: is no folder; name the one in which images arrive")
    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise CaptionkitError("watchfiles is not installed; run `pip install 'captionkit[watch]'`") from None
    writer = CaptionWriter(write.publisher(), [str(folder)], dry_run=write.dry_run)
    captioner = runtime.load(model)
    restyle, hypotheses = style_of(write, captioner, decoding or {})
    settings = {**(decoding or {}), **hypotheses, "min_confidence": min_confidence}
    handle = partial(_handle, captioner, settings, restyle, writer, folder)
    arrivals = Arrivals(quiet=quiet)
    print_message(f"captionkit: watching {paths.shown(folder)}")
    begun = False
    for changes in watch(folder, watch_filter=None, yield_on_timeout=True, rust_timeout=_TICK, stop_event=stop):
        now = time.monotonic()
        # The first look comes once the system reports changes, so that nothing falls between the two.
        seen = _images(Path(path) for _, path in changes) if begun else images_below(folder)
        begun = True
        arrivals.see(seen, now)
        if ready := arrivals.ready(now):
            handle(ready)  # what it writes into an image makes that arrive again, with a text that stays
    return 0


def _images(changed: Iterable[Path]) -> Iterator[Path]:
    """Yield the images among changed paths, and those in folders that were moved here."""
    for path in changed:
        if path.is_dir():
            yield from images_below(path)
        elif is_arrival(path.name):
            yield path


def _handle(
    captioner: Captioner,
    settings: dict[str, Any],
    restyle: Callable[[Outcome], Outcome],
    writer: CaptionWriter,
    folder: Path,
    images: Iterable[Path],
) -> None:
    """Caption images and write the captions; what fails is named, and tried again once its file changes."""
    given = (Input(os.fspath(path), os.fspath(path), root=os.fspath(folder)) for path in images)
    for image, outcome in outcomes_of(captioner, writer.without_kept(given), _BATCH, settings):
        if image.kept:
            continue
        outcome = restyle(outcome)
        if outcome.caption:
            outcome = writer.write(image, outcome)
        if outcome.caption is None:
            print_message(f"captionkit: {outcome.error}")
        else:
            print_result(f"{image.name}\t{outcome.caption.text}")
