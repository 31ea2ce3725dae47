"""`captionkit bulk merge`: the outputs of all shares of a run, joined to that of one run and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from captionkit.bulk.manifest import Manifest
from captionkit.bulk.plan import Shard
from captionkit.bulk.store import Store, copy_file, open_store
from captionkit.bulk.writers import clear, part_of, records_name, records_of
from captionkit.errors import CaptionkitError


def merge(shares: Sequence[str], output: str) -> str:
    """Copy the parts of all shares into one output, as one undisturbed run would have written them.

    Return, in a sentence, what there is then. Interrupted, it goes on when called again. Raises CaptionkitError, before
    anything is written, if the shares are not of one run, if one is missing, twice there or not finished; and if a file
    is not what its manifest says.
    """
    manifests = [_share(name) for name in shares]
    first = manifests[0]
    for other in manifests[1:]:
        _check_alike(first, other)
    _check_complete(manifests)
    store = open_store(output)
    with store.lock():
        whole = _target(store, first)
        for manifest in manifests:
            for done in manifest.parts():
                if done.index in whole.closed:
                    continue
                for name, written in done.files.items():
                    clear(store, name)
                    if copy_file(manifest.store, name, store) != written:
                        raise CaptionkitError(
                            f"{manifest.store.name}/{name}: is not as it was written; remove it and run its share again"
                        )
                if first.identity.format == "txt":
                    _copy_sidecars(manifest.store, store, done.index)
                whole.close(done)
        whole.listed(first.images or 0, first.digest)
    images, failed = _sums(whole)
    if images != first.images:
        raise CaptionkitError(f"{output}: has {images:,} images of {first.images:,}; merge into an empty output")
    return f"{output}: {images:,} images in {len(whole.closed):,} parts, {failed:,} failed; complete"


def _share(name: str) -> Manifest:
    manifest = Manifest.read(open_store(name))
    if manifest is None:
        raise CaptionkitError(f"{name}: no output of `captionkit bulk` (no manifest.json); check the path")
    if manifest.images is None:
        raise CaptionkitError(f"{name}: its run has not come to an end; run it again first")
    return manifest


def _check_alike(first: Manifest, other: Manifest) -> None:
    changes = replace(first.identity, shard="").changes(replace(other.identity, shard=""))
    of, of_other = (Shard.parse(one.identity.shard).of for one in (first, other))
    if of != of_other:
        changes.append(f"{of} shares, now {of_other}")
    if (first.images, first.digest) != (other.images, other.digest):
        changes.append(f"an input of {first.images:,} images, now another of {other.images:,}")
    if changes:
        raise CaptionkitError(f"{other.store.name}: is of another run than {first.store.name} ({'; '.join(changes)})")


def _check_complete(manifests: Sequence[Manifest]) -> None:
    given = [Shard.parse(manifest.identity.shard) for manifest in manifests]
    numbers = sorted(shard.number for shard in given)
    wanted = list(range(1, given[0].of + 1))
    if numbers != wanted:
        missing = sorted(set(wanted) - set(numbers))
        what = f"share {missing[0]}/{given[0].of} is missing" if missing else "a share is named twice"
        raise CaptionkitError(f"{manifests[0].store.name}: {what}; name the output of each of the {given[0].of} once")
    size = manifests[0].identity.part_size
    parts = -(-(manifests[0].images or 0) // size)
    for manifest, shard in zip(manifests, given, strict=True):
        lacking = next(
            (index for index in range(shard.number - 1, parts, shard.of) if index not in manifest.closed), None
        )
        if lacking is not None:
            raise CaptionkitError(f"{manifest.store.name}: part {lacking} is not done; run its share again first")


def _target(store: Store, first: Manifest) -> Manifest:
    identity = replace(first.identity, shard="1/1")
    there = Manifest.read(store)
    if there is None:
        for name in [name for name in store.names() if part_of(name) is not None]:
            raise CaptionkitError(f"{store.name}: has {name}, but no manifest; name another output")
        there = Manifest(store, identity)
        there.save()
    elif changes := there.identity.changes(identity):
        raise CaptionkitError(f"{store.name}: is the output of another run ({'; '.join(changes)}); name another output")
    return there


def _copy_sidecars(source: Store, target: Store, part: int) -> None:
    for record in records_of(source, records_name(part, "txt")):
        if "sidecar" not in record:
            continue
        content, there = source.read(record["sidecar"]), target.read(record["sidecar"])
        if content is None:
            raise CaptionkitError(f"{source.name}/{record['sidecar']}: is gone; run its share again with --restart")
        if there is None:
            target.write(record["sidecar"], content)
        elif there != content:
            raise CaptionkitError(f"{target.name}/{record['sidecar']}: is there already; move it away")


def _sums(manifest: Manifest) -> tuple[int, int]:
    counted = [(done.images, done.failed) for done in manifest.parts()]
    return sum(images for images, _ in counted), sum(failed for _, failed in counted)
