"""Metadata inside images, through exiftool (https://exiftool.org) and PyExifTool.

exiftool writes a copy, which then takes the image's place at once: the image is whole at every moment.
"""

from __future__ import annotations

import atexit
import html
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError, one_line
from captionkit.publish.metadata import WRITER, described_fields
from captionkit.utils import paths
from captionkit.utils.atomic_write import cannot_write, set_rights

_TAGS = {
    "description": "XMP-dc:Description",
    "image-description": "XMP-tiff:ImageDescription",
    "alt": "XMP-iptcCore:AltTextAccessibility",
    "extended": "XMP-iptcCore:ExtDescrAccessibility",
    WRITER: "XMP-photoshop:CaptionWriter",
}
#: where older programs keep a description; it counts as one
_OLDER = ("IFD0:ImageDescription", "IPTC:Caption-Abstract")
_OPTIONS = ("-E", "-charset", "filename=utf8", "-api", "largefilesupport=1")  # -E: texts as HTML, on one line
_LONGEST = 50  # characters of the image's name in that of its copy


class EmbeddedMetadata:
    """The metadata inside images: a `MetadataStore`. exiftool runs until the program ends."""

    def __init__(self) -> None:
        """Raise CaptionkitError if PyExifTool or exiftool is missing."""
        self._tool  # noqa: B018 - fail before any work

    def place(self, image: Path) -> str:
        """Return the path of the image."""
        return str(image)

    def read(self, image: Path) -> dict[str, str]:
        """Return the texts in an image by field; see `MetadataStore`. The descriptions of older programs count."""
        tags = [f"-{tag}" for tag in (*_TAGS.values(), *_OLDER, "File:MIMEType", "ExifTool:Error")]
        out, error = self._execute("-j", *tags, _argument(image))
        try:
            values = json.loads(out)[0]
        except (ValueError, LookupError):
            raise CaptionkitError(f"{paths.shown(image)}: {_reason(error)}") from None
        kind = str(values.get("File:MIMEType", ""))
        problem = values.get("ExifTool:Error") or ("" if kind.startswith("image/") else "no image")
        if problem:
            raise CaptionkitError(f"{paths.shown(image)}: exiftool: {problem}; check the file")
        found = {name: html.unescape(str(values.get(tag, ""))).strip() for name, tag in _TAGS.items()}
        older = (html.unescape(str(values.get(tag, ""))).strip() for tag in _OLDER)
        return {**described_fields(*older), **{name: text for name, text in found.items() if text}}

    def write(self, image: Path, texts: Mapping[str, str | None]) -> None:
        """Change fields in an image, which keeps its mode and stays where links lead; see `MetadataStore`."""
        target = paths.real(image)
        try:
            before = target.stat()
            if not os.access(target, os.W_OK):
                raise PermissionError(13, os.strerror(13))
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:_LONGEST]}.", suffix=".partial")
            os.close(handle)
            copy = Path(name)
        except OSError as error:
            raise cannot_write(image, error) from None
        try:
            copy.unlink()  # exiftool writes no file that is there
            assigned = [f"-{_TAGS[field]}={_escaped(text or '')}" for field, text in texts.items()]
            _, errors = self._execute(*assigned, "-o", str(copy), _argument(target))
            if not copy.exists():
                raise CaptionkitError(f"{paths.shown(image)}: {_reason(errors)}; --write xmp keeps it beside the image")
            set_rights(copy, before)
            with copy.open("rb+") as file:
                os.fsync(file.fileno())
            if _state(target.stat()) != _state(before):
                raise CaptionkitError(f"{paths.shown(image)}: was changed meanwhile; run it again")
            copy.replace(target)
        except OSError as error:
            raise cannot_write(image, error) from None
        finally:
            copy.unlink(missing_ok=True)

    def _execute(self, *arguments: str) -> tuple[str, str]:
        """Run exiftool and return its output and errors. Raises CaptionkitError if it ends; the next call starts it."""
        tool = self._tool
        try:
            out: str = tool.execute(*_OPTIONS, *arguments)
        except Exception as error:  # a pipe that broke, an answer that is cut, PyExifTool's own
            del self._tool
            _stop(tool)
            raise CaptionkitError(f"exiftool ended ({one_line(error)}); run it again") from None
        return out, tool.last_stderr

    @cached_property
    def _tool(self) -> Any:
        try:
            from exiftool import ExifTool
        except ModuleNotFoundError:
            raise CaptionkitError("writing into images needs `pip install 'captionkit[metadata]'`") from None
        try:
            warnings.filterwarnings("ignore", category=UserWarning, module=r"exiftool\.")  # reported in one line
            tool = ExifTool(common_args=["-G1"], encoding="utf-8")
            tool.run()
        except (OSError, RuntimeError):
            way_out = "`apt install libimage-exiftool-perl`, or see https://exiftool.org"
            raise CaptionkitError(f"writing into images needs exiftool, which is not installed; {way_out}") from None
        atexit.register(_stop, tool)
        return tool


def _stop(tool: Any) -> None:
    with suppress(Exception):  # it may have gone already
        if tool.running:
            tool.terminate()


def _argument(image: Path) -> str:
    """Return a path as an argument of exiftool, which reads one from each line."""
    path = os.path.abspath(image)  # noqa: PTH100 - one that begins with a dash is no option then
    if "\n" in path or "\r" in path or not path.isprintable():
        raise CaptionkitError(f"{paths.shown(image)}: has a name that exiftool cannot be given; rename it")
    return path


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "&#xa;").replace("\r", "&#xd;")


def _reason(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("Error")] or ["no answer"]
    return f"exiftool: {lines[0].removeprefix('Error: ').partition(' - ')[0]}"


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns
