"""`captionkit bulk`: caption an input in parts, go on with a run that was interrupted, refuse one that has changed."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.bulk import listing
from captionkit.bulk.items import Fetch
from captionkit.bulk.listing import Listing
from captionkit.bulk.manifest import Identity, Manifest, plain
from captionkit.bulk.plan import Census, Part, Shard, parts
from captionkit.bulk.pool import Engine, LocalPool
from captionkit.bulk.progress import LOG_FORMATS, ProgressReport, Tally, duration
from captionkit.bulk.records import Marks
from captionkit.bulk.remote import is_remote, require
from captionkit.bulk.store import Store, open_store
from captionkit.bulk.tree import is_within
from captionkit.bulk.worker import CaptionStream, Job
from captionkit.bulk.writers import FORMATS, WITH_IMAGES, clear, part_of, records_name, records_of, sidecar_text
from captionkit.errors import CaptionkitError
from captionkit.inference.caption_confidence import check_confidence
from captionkit.inference.captioner import READERS
from captionkit.inference.devices import CPU, choose_device
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.inference.model_folder import TOKENIZER, ModelFolder
from captionkit.inference.model_source import open_source
from captionkit.inference.onnx_runtime import onnxruntime
from captionkit.inference.search import Decoding
from captionkit.inference.word_constraints import constraints_of
from captionkit.utils import output_checks, paths

if TYPE_CHECKING:
    from captionkit.inference.published.folder import PublishedFolder

LOG = logging.getLogger(__name__)

#: images of a part, by default: some seconds to minutes of work, lost if a machine fails
PART_SIZE = 1024
#: threads that open images which come over a network
_FAR_READERS = 8


@dataclass(frozen=True)
class BulkSettings:
    """How to caption an input.

    decoding: fields of Decoding that differ from the model's. part_size: images of a part; a whole number of batches.
    workers: processes; 0: what the engine has processors for. threads: of each. max_errors: images that may fail before
    the run ends; None: any number. fetch: fetches URLs, if that is allowed. engine: makes what captions parts, from the
    job and the number of workers. runtime: how the model is run, but for its threads. load: makes the captioner in each
    worker instead, from the model's name and the threads.
    """

    model: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    min_confidence: float | None = None
    format: str = "jsonl"
    column: str | None = None
    part_size: int = PART_SIZE
    batch_size: int = 16
    workers: int = 0
    threads: int = 1
    shard: str = "1/1"
    restart: bool = False
    max_errors: int | None = None
    log_format: str = "text"
    metrics: Path | None = None
    fetch: Fetch | None = None
    engine: Callable[[Job, int], Engine] = LocalPool
    runtime: Runtime = USUAL_RUNTIME
    load: Callable[[str | None, int], CaptionStream] | None = None

    def __post_init__(self) -> None:
        for name in ("part_size", "batch_size", "threads"):
            if (value := getattr(self, name)) < 1:
                raise CaptionkitError(f"--{name.replace('_', '-')} is {value}; use a whole number from 1")
        if self.workers < 0:
            raise CaptionkitError(f"--workers is {self.workers}; use a whole number, or 0 for one a processor")
        if self.part_size % self.batch_size:
            nearest = -(-self.part_size // self.batch_size) * self.batch_size
            raise CaptionkitError(
                f"--part-size is {self.part_size}, but parts are whole batches of {self.batch_size}; use {nearest}"
            )
        if self.max_errors is not None and self.max_errors < 0:
            raise CaptionkitError(f"--max-errors is {self.max_errors}; use a whole number from 0")
        if self.format not in FORMATS:
            raise CaptionkitError(f"--format is {self.format!r}; use {', '.join(FORMATS)}")
        if self.log_format not in LOG_FORMATS:
            raise CaptionkitError(f"--log-format is {self.log_format!r}; use {' or '.join(LOG_FORMATS)}")
        check_confidence(self.min_confidence)
        Shard.parse(self.shard)


@dataclass(frozen=True)
class BulkSummary:
    """What a run has come to. `images` and `failed` count what earlier runs did, too; `done` counts this one's."""

    images: int
    failed: int
    done: int
    seconds: float

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:.1f} a second" if self.done and self.seconds else ""
        now = f"{self.done:,} now in {duration(self.seconds)}{rate}" if self.done else "none of them now"
        return f"{self.images:,} images done ({now}), {self.failed:,} failed"


def caption_dataset(source: str, output: str, settings: BulkSettings) -> BulkSummary:
    """Caption every image of an input into parts, leaving out those that are whole already.

    Raises CaptionkitError if the run cannot begin or go on; what is whole by then stays.
    """
    found = _with_images(listing.find(source, column=settings.column))
    _check_places(found, output, settings)
    folder = open_source(settings.model, precision=settings.runtime.precision, style=settings.runtime.style)
    _check_device(settings)
    identity, marks = _identity(folder, found, settings)
    store = open_store(output)
    with store.lock():
        manifest = _begun(store, identity, restart=settings.restart)
        run = _Run(found, manifest, settings.part_size, Shard.parse(settings.shard), _tally(manifest))
        run.verify()
        _settle(manifest)
        job = _job(output, settings, marks, found)
        with ProgressReport(run.tally, log_format=settings.log_format, metrics=settings.metrics) as report:
            with settings.engine(job, settings.workers) as engine, run.counting():
                summary = _drive(engine, run, report, settings.max_errors)
            facts = {**run.tally.to_dict(), "seconds": round(summary.seconds, 1)}
            report.event("finished", facts, f"{output}: {summary}")
    return summary


def _check_device(settings: BulkSettings) -> None:
    """Raise CaptionkitError for a device that is not here, unless other machines do the work."""
    device = settings.runtime.device
    if settings.engine is LocalPool and device not in (CPU, "auto"):
        choose_device(device, onnxruntime().get_available_providers())


def _with_images(found: Listing) -> Listing:
    """Return a listing that has an image. Raises CaptionkitError for an empty one, before anything is written."""
    items = found.items()
    first = next(items, None)
    if first is None:
        raise CaptionkitError(f"{paths.shown(found.name)}: names no images; check it")
    return found if found.again else replace(found, items=lambda: chain([first], items))


def _drive(engine: Engine, run: _Run, report: ProgressReport, max_errors: int | None) -> BulkSummary:
    tally = run.tally
    if tally.parts:
        facts = tally.to_dict()
        report.event("resumed", facts, f"{tally.images:,} images in {tally.parts:,} parts are done; going on")
    try:
        for done in engine.run(run.waiting()):
            run.manifest.close(done)
            tally.add(done.images, done.failed)
            report.update()
            if max_errors is not None and tally.failed > max_errors:
                break
    except KeyboardInterrupt:
        report.event("stopped", tally.to_dict(), f"{tally.images:,} images are done; the same command goes on")
        raise
    seconds = time.monotonic() - tally.started
    return BulkSummary(tally.images, tally.failed, tally.images - tally.before, seconds)


class _Run:
    """The parts of an input, of which some are whole."""

    def __init__(self, found: Listing, manifest: Manifest, part_size: int, shard: Shard, tally: Tally) -> None:
        self.found, self.manifest, self.tally = found, manifest, tally
        self._part_size, self._shard = part_size, shard

    def _parts(self) -> Iterator[Part]:
        return parts(self.found.items(), self._part_size)

    def verify(self) -> None:
        """Compare the input with what is known of it. Raises CaptionkitError if it has changed.

        It is listed as far as parts are whole, or to its end if that was reached before.
        """
        closed = self.manifest.closed
        if not self.found.again or (not closed and self.manifest.images is None):
            return
        last = max(closed, default=-1)
        census, own = Census(), 0
        for part in self._parts():
            self._check(part)
            census.add(part)
            own += len(part.items) if self._shard.has(part.index) else 0
            if self.manifest.images is None and part.index >= last:
                return
        self._end(census, own)

    def waiting(self) -> Iterator[Part]:
        """Yield the parts of this share that are not whole. Raises CaptionkitError if the input has changed."""
        census, own = Census(), 0
        for part in self._parts():
            census.add(part)
            if self._shard.has(part.index):
                own += len(part.items)
                self._check(part)
                if part.index not in self.manifest.closed:
                    yield part
        self._end(census, own)

    def _check(self, part: Part) -> None:
        if self.manifest.closed.get(part.index, part.digest) != part.digest:
            raise _changed(self.manifest, part)

    def _end(self, census: Census, own: int) -> None:
        self.manifest.listed(census.images, census.digest)
        self.tally.total = own

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the images of the input in a thread while the block runs, so that the time left can be estimated."""
        if not self.found.again or self.manifest.images is not None:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._count, args=(ended,), name="captionkit-count", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self, ended: threading.Event) -> None:
        own = 0
        with suppress(CaptionkitError):  # which the run itself meets, too
            for part in self._parts():
                own += len(part.items) if self._shard.has(part.index) else 0
                if ended.is_set():
                    return
            self.tally.total = own


def _changed(manifest: Manifest, part: Part) -> CaptionkitError:
    """Return the error for a part whose images are no longer what they were, naming the first that differs."""
    name = records_name(part.index, manifest.identity.format)
    before = [record["id"] for record in records_of(manifest.store, name)]
    pairs = zip_longest(before, (item.id for item in part.items))
    old, new = next(((old, new) for old, new in pairs if old != new), (None, None))
    if old == new:
        what = f"a file from {before[0]} to {before[-1]} has another size"
    else:
        what = f"{new} where {old} was" if old and new else f"{new} is new" if new else f"{old} is gone"
    return CaptionkitError(
        f"{paths.shown(manifest.identity.input_name)}: has changed since the run was begun ({what}); caption it into "
        "another output, or start over with --restart"
    )


def _check_places(found: Listing, output: str, settings: BulkSettings) -> None:
    """Refuse an output that cannot be written to, or that would add to the input."""
    if settings.metrics is not None:
        output_checks.check_output_file(settings.metrics, _is_metrics)
    if settings.format == "parquet":
        require("pyarrow", "bulk")
    if is_remote(output):
        return
    output_checks.check_output_folder(Path(output))
    if found.folder and settings.format in WITH_IMAGES and is_within(output, found.folder):
        raise CaptionkitError(
            f"{output}: lies in the input, to which {settings.format} would add; name a folder elsewhere"
        )


def _is_metrics(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).startswith(b"# HELP captionkit_bulk_")


def _identity(folder: ModelFolder | PublishedFolder, found: Listing, settings: BulkSettings) -> tuple[Identity, Marks]:
    """Return what the run does, and its fingerprints. Raises CaptionkitError for a decoding that does not fit."""
    decoding = replace(folder.decoding, **settings.decoding)
    constraints_of(decoding, folder.tokenizer)
    chosen, usual = plain(decoding), plain(Decoding())
    known = folder.config["files"]
    names = (*folder.graphs.values(), TOKENIZER) if isinstance(folder, ModelFolder) else sorted(known)
    style = {"style": settings.runtime.style} if settings.runtime.style else {}
    model = _fingerprint(
        {
            "files": [known.get(name, {}).get("sha256") for name in names],
            "rest": [folder.config.get(name) for name in ("preprocessing", "calibration", "confidence")],
            **style,
        }
    )
    identity = Identity(
        model=model,
        model_name=str(settings.model or "bundled"),
        decoding=chosen,
        min_confidence=settings.min_confidence,
        format=settings.format,
        part_size=settings.part_size,
        batch_size=settings.batch_size,
        shard=settings.shard,
        input_name=found.name,
    )
    # of what differs from the defaults, so that the fields that a later version adds leave it as it is
    unusual = {name: value for name, value in chosen.items() if value != usual[name]}
    return identity, Marks(model, _fingerprint({**unusual, "min_confidence": settings.min_confidence}))


def _fingerprint(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:12]


def _begun(store: Store, identity: Identity, *, restart: bool) -> Manifest:
    """Return the manifest of the run to go on with, or a new one. Raises CaptionkitError if the run is another."""
    manifest = Manifest.read(store)
    if manifest is not None and restart:
        _discard(manifest)
        manifest = None
    if manifest is not None:
        if changes := manifest.identity.changes(identity):
            raise CaptionkitError(
                f"{store.name}: was begun with {'; '.join(changes)}; use the same again, name another output, or start "
                "over with --restart"
            )
        return manifest
    there = [name for name in store.names() if part_of(name) is not None]
    if there and not restart:
        raise CaptionkitError(
            f"{store.name}: has {there[0]}, but no manifest; name another output, or start over with --restart"
        )
    for name in there:
        clear(store, name)
    manifest = Manifest(store, identity)
    manifest.save()
    return manifest


def _discard(manifest: Manifest) -> None:
    """Remove what a run has written: whatever of it is still as it was written. Raises CaptionkitError."""
    for done in manifest.parts():
        if manifest.identity.format == "txt":
            for record in records_of(manifest.store, records_name(done.index, "txt")):
                if "sidecar" in record and manifest.store.read(record["sidecar"]) == sidecar_text(record):
                    manifest.store.remove(record["sidecar"])
        for name in done.files:
            clear(manifest.store, name)
    manifest.remove()


def _settle(manifest: Manifest) -> None:
    """Remove the files of parts that are not named as whole, and reopen those whose files are gone."""
    there = {name for name in manifest.store.names() if part_of(name) is not None}
    for name in there:
        if part_of(name) not in manifest.closed:
            clear(manifest.store, name)
    for done in list(manifest.parts()):
        if not set(done.files) <= there:
            LOG.warning("%s: %s is gone; captioned again", manifest.store.name, ", ".join(set(done.files) - there))
            manifest.reopen(done.index)


def _tally(manifest: Manifest) -> Tally:
    tally = Tally()
    for done in manifest.parts():
        tally.images += done.images
        tally.failed += done.failed
        tally.parts += 1
    tally.before = tally.images
    return tally


def _job(output: str, settings: BulkSettings, marks: Marks, found: Listing) -> Job:
    far = settings.fetch is not None or is_remote(found.name)
    return Job(
        load=_loader(settings),
        store=output,
        format=settings.format,
        part_size=settings.part_size,
        batch_size=settings.batch_size,
        settings={**settings.decoding, "min_confidence": settings.min_confidence},
        marks=marks,
        fetch=settings.fetch,
        readers=_FAR_READERS if far else READERS,
        threads=settings.threads,
    )


def _loader(settings: BulkSettings) -> Callable[[], CaptionStream]:
    if settings.load:
        return partial(settings.load, settings.model, settings.threads)
    return partial(replace(settings.runtime, threads=settings.threads).load, settings.model)
