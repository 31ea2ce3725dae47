"""`captionkit metadata`: the captions in images' metadata and XMP sidecars, whose they are, and their removal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from captionkit.cli.inputs import find_inputs
from captionkit.errors import CaptionkitError
from captionkit.publish.embedded import EmbeddedMetadata
from captionkit.publish.merging import Change
from captionkit.publish.metadata import WRITER, MetadataStore, clear, own_fields
from captionkit.publish.xmp_sidecars import XmpSidecars
from captionkit.utils import paths
from captionkit.utils.console import print_message, print_result


def show_metadata(named: Sequence[str], *, as_json: bool = False) -> int:
    """Print the texts in the metadata of images, and which of them captionkit wrote; return the exit status."""
    stores, failures = _stores(), 0
    for given in find_inputs(named):
        try:
            for store in stores:
                _show(given.name, store, _image(given.source, given.error), as_json)
        except CaptionkitError as error:
            failures += 1
            print_message(f"captionkit: {error}")
    return 1 if failures else 0


def clear_metadata(named: Sequence[str], *, dry_run: bool = False) -> int:
    """Remove the texts that captionkit wrote into the metadata of images; return the exit status."""
    stores, failures, cleared = _stores(), 0, 0
    for given in find_inputs(named):
        try:
            image = _image(given.source, given.error)
            changes = [change for store in stores for change in clear(store, image, dry_run=dry_run)]
        except CaptionkitError as error:
            failures += 1
            print_message(f"captionkit: {error}")
            continue
        cleared += bool(changes)
        for change in changes:
            print_result(_removed(change))
    print_message(f"captionkit: {cleared} image{'' if cleared == 1 else 's'} {'would be ' if dry_run else ''}cleared")
    return 1 if failures else 0


def _stores() -> list[MetadataStore]:
    """Return the places where texts can be; without exiftool, images are not looked into."""
    stores: list[MetadataStore] = [XmpSidecars()]
    try:
        stores.append(EmbeddedMetadata())
    except CaptionkitError as error:
        print_message(f"captionkit: only XMP files are looked at; {error}")
    return stores


def _image(source: object, error: str) -> Path:
    if error or not isinstance(source, str):
        raise CaptionkitError(error or "an image on standard input or in an archive has no metadata of its own here")
    if not paths.is_file(source):
        raise CaptionkitError(f"{paths.shown(source)}: is no file; check the path")
    return Path(source)


def _show(name: str, store: MetadataStore, image: Path, as_json: bool) -> None:
    texts = store.read(image)
    own = own_fields(texts)
    fields = {field: text for field, text in texts.items() if field != WRITER}
    if as_json:
        if fields:
            print_result(
                json.dumps({"path": name, "place": store.place(image), "texts": fields, "own": own}, ensure_ascii=False)
            )
        return
    for field, text in fields.items():
        print_result(f"{paths.shown(store.place(image))}\t{field}\t{'captionkit' if field in own else 'kept'}\t{text}")


def _removed(change: Change) -> str:
    return f"{change.where}: {change.before!r} removed"
