"""`captionkit bulk`: from its flags to a run, a merge or an upload."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from captionkit.bulk.pool import Engine, LocalPool
from captionkit.bulk.run import BulkSettings, caption_dataset
from captionkit.bulk.worker import Job
from captionkit.errors import CaptionkitError
from captionkit.inference.load import Runtime
from captionkit.utils.console import print_message


def bulk_inputs(options: argparse.Namespace, *, decoding: Mapping[str, Any], runtime: Runtime) -> int:
    """Run what the flags ask for; return the exit status, 0 unless more images failed than may."""
    if options.places[0] == "merge":
        from captionkit.bulk.merge import merge

        if len(options.places) < 3:
            raise CaptionkitError("merge joins the outputs of several shares: captionkit bulk merge SHARE ... OUTPUT")
        *shares, output = options.places[1:]
        print_message(merge(shares, output))
        return 0
    if len(options.places) != 2:
        raise CaptionkitError("name one INPUT and one OUTPUT; a folder, a list or a pattern of shards is one input")
    source, output = options.places
    settings = BulkSettings(
        model=options.model,
        decoding=decoding,
        min_confidence=options.min_confidence,
        format=options.format,
        column=options.image_column,
        part_size=options.part_size,
        batch_size=options.batch_size,
        workers=options.workers,
        threads=options.threads,
        shard=options.shard,
        restart=options.restart,
        max_errors=options.max_errors,
        log_format=options.log_format,
        metrics=options.metrics_file,
        fetch=_fetch() if options.allow_urls else None,
        engine=_engine(options),
        runtime=runtime,
    )
    summary = caption_dataset(source, output, settings)
    if options.push:
        from captionkit.bulk.push import push_parts

        print_message(push_parts(output, options.push))
    return 1 if summary.failed > (options.max_errors or 0) else 0


def _fetch() -> Callable[[str], bytes]:
    """Return the service's own guarded fetch. Raises CaptionkitError where the service is not installed."""
    try:
        from captionkit.serve.url_fetch import fetch_image
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("captionkit"):
            raise
        raise CaptionkitError(
            f"--allow-urls: {error.name} is not installed; run `pip install 'captionkit[serve]'`"
        ) from None
    return fetch_image


def _engine(options: argparse.Namespace) -> Callable[[Job, int], Engine]:
    if options.engine == "ray":
        from captionkit.bulk.ray_engine import ray_engine

        return ray_engine(options.address)
    if options.address is not None:
        raise CaptionkitError("--address is of a Ray cluster; add --engine ray")
    return LocalPool
