"""Text sidecars: `dog.txt` with the caption of `dog.jpg`, which trainers of image generators read.

`captionkit.data.layouts.folder` reads them back as a dataset.
"""

from __future__ import annotations

import re
from pathlib import Path

from captionkit.data.layouts.caption_values import MAX_CAPTIONS
from captionkit.errors import CaptionkitError
from captionkit.publish.merging import Change, Existing, merged, worded
from captionkit.publish.publisher import Wording
from captionkit.utils import atomic_write, paths

_SUFFIX = re.compile(r"\.[\w-]+(\.[\w-]+)*")
#: suffixes of files that hold something else
_TAKEN = (*paths.IMAGE_SUFFIXES, ".json", ".jsonl", ".csv", ".tar", ".npz", ".html")


def sidecar_suffix(suffix: str) -> str:
    """Return a usable suffix with its dot. Raises CaptionkitError for one that is not, or that other files have."""
    dotted = suffix if suffix.startswith(".") else f".{suffix}"
    if dotted.casefold() == ".xmp":
        raise CaptionkitError(f"--sidecar {suffix}: XMP is no plain text; use --write xmp")
    if not _SUFFIX.fullmatch(dotted) or dotted.casefold().endswith(_TAKEN):
        raise CaptionkitError(f"--sidecar {suffix}: is no suffix of text files; use one such as .txt or .caption")
    return dotted


class TextSidecars:
    """Writes captions into text files beside their images, or into a tree of their own.

    Each file is written at once and atomically, so that a run which is killed leaves whole files, and the next one goes
    on with the rest.
    """

    def __init__(
        self,
        suffix: str = ".txt",
        *,
        folder: Path | None = None,
        existing: Existing = "skip",
        prepend: str = "",
        append: str = "",
        dry_run: bool = False,
    ) -> None:
        """Raise CaptionkitError for an unusable suffix.

        Args:
            suffix: of the files, which takes the place of the image's.
            folder: where the images' tree is mirrored; None for beside the images.
            existing: what to do with a text that is there already.
            prepend, append: literal texts around the caption, such as a trigger word; see `worded`.
            dry_run: only say what would be written.
        """
        self.suffix = sidecar_suffix(suffix)
        self._folder, self._existing, self._dry_run = folder, existing, dry_run
        self._around = {"prepend": prepend, "append": append}
        self._owners: dict[Path, str] = {}

    def path(self, image: Path, relative: Path) -> Path:
        """Return the text file of an image, whose path inside the tree to mirror is `relative`.

        Raises CaptionkitError if it is another image's file already.
        """
        path = (self._folder / relative if self._folder else image).with_suffix(self.suffix)
        key = paths.real(path.parent) / path.name
        owner = self._owners.setdefault(key, str(image))
        if owner != str(image):
            raise CaptionkitError(
                f"{paths.shown(image)}: its caption belongs into {paths.shown(path)}, as that of {paths.shown(owner)} "
                f"does; rename one of the images"
            )
        return path

    def is_open(self, image: Path, relative: Path) -> bool:
        """Return whether a caption of this image would be written. Raises CaptionkitError as `path` and `write` do."""
        return self._existing != "skip" or not _text(self.path(image, relative)).strip()

    def write(self, image: Path, relative: Path, wording: Wording) -> list[Change]:
        """Write the caption of an image and return the change; none if what is there already stays.

        Raises CaptionkitError if a file cannot be written, or what is there already cannot be read.
        """
        path = self.path(image, relative)
        before = _text(path)
        after = merged(before, worded(wording.caption, **self._around), self._existing)
        if after is None:
            return []
        if not self._dry_run:
            atomic_write.write_text(path, after + "\n")
        return [Change(str(path), before.strip(), after)]


def _text(path: Path) -> str:
    """Return what a text file holds; "" if there is none. Raises CaptionkitError if it cannot be read as text."""
    if not paths.exists(path):
        return ""
    return paths.read_text(path, limit=MAX_CAPTIONS)
