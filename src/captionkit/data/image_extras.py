"""Image formats that need an extra: HEIC and HEIF through pi-heif, camera RAW files through rawpy (LibRaw).

Of a RAW file, the preview that the camera stored is taken where it is large enough, since it is what the photographer
saw; otherwise the sensor data is developed at half its size.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from PIL import Image

from captionkit.data import image_kinds
from captionkit.errors import ImageError, ImageTooLargeError
from captionkit.utils.atomic_write import SOFTWARE
from captionkit.utils.paths import EXTRA_SUFFIXES

#: the package that each extra installs
_PACKAGES = {"heif": "pi_heif", "raw": "rawpy"}
# TIFF tags
_SUBFILE, _PHOTOMETRIC, _ORIENTATION, _SUBDIRECTORIES, _DNG = 254, 262, 0x0112, 330, 50706
_SENSOR = (32803, 34892)  # photometric interpretations of sensor data: behind a colour filter, and linear
#: LibRaw's flip (1: horizontally, 2: vertically, 4: transposed) -> the EXIF orientation
_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}
_LEAST_PREVIEW = 512  # pixels of its shorter side, above any model's input


def missing_extra(suffix: str) -> str:
    """Return the extra that images of this lower-case suffix need and that is not installed; "" if none is."""
    extra = next((name for name, suffixes in EXTRA_SUFFIXES.items() if suffix in suffixes), "")
    return extra if extra and importlib.util.find_spec(_PACKAGES[extra]) is None else ""


def is_raw(tags: Mapping[int, Any]) -> bool:
    """Return whether a TIFF with these tags in its first directory holds sensor data, and at most a preview there."""
    reduced = isinstance(subfile := tags.get(_SUBFILE), int) and subfile & 1
    return _DNG in tags or bool(reduced and _SUBDIRECTORIES in tags) or tags.get(_PHOTOMETRIC) in _SENSOR


def is_raw_tiff(data: bytes) -> bool:
    """Return `is_raw` of a TIFF's first directory; False if it is damaged."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = io.BytesIO(data)
    try:
        directory = ImageFileDirectory_v2(file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8))
        file.seek(directory.next)
        directory.load(file)
        return is_raw(directory)
    except Exception:  # Pillow raises almost any exception for a damaged file
        return False


def heif_header(data: bytes) -> Image.Image:
    """Return a HEIF image, not decoded yet; once it is, it is upright and its orientation tag is 1.

    Raises ImageError without the extra.
    """
    heif: Image.Image = _import("heif", image_kinds.HEIC).HeifImageFile(io.BytesIO(data))
    return heif


def raw_image(data: bytes, max_pixels: int) -> Image.Image:
    """Return the preview in a RAW file, or its sensor data developed, with the orientation among the EXIF tags.

    Raises ImageError for a file that LibRaw cannot read, one of more than `max_pixels`, and without the extra.
    """
    rawpy = _import("raw", image_kinds.RAW)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes
            if sizes.raw_width * sizes.raw_height > max_pixels:
                raise ImageTooLargeError(
                    f"{sizes.raw_width} x {sizes.raw_height} is more than {max_pixels} pixels; export it smaller"
                )
            preview = _preview(rawpy, raw)
            if preview is not None and min(preview.size) >= min(_LEAST_PREVIEW, sizes.width, sizes.height):
                if not _states_orientation(preview):
                    preview.getexif()[_ORIENTATION] = _turn(preview, sizes)
                return preview
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))  # upright
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ImageError(
            f"{image_kinds.RAW.what} that LibRaw cannot read ({reason}); export it as JPEG or PNG"
        ) from None


def _preview(rawpy: Any, raw: Any) -> Image.Image | None:
    """Return the largest preview, a JPEG not decoded yet; None if there is none that can be read."""
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        preview = raw.extract_thumb()
        if preview.format == rawpy.ThumbFormat.JPEG:
            return JpegImageFile(io.BytesIO(preview.data))
        return Image.fromarray(preview.data)
    except (rawpy.LibRawError, OSError, SyntaxError, ValueError, TypeError):
        return None


def _states_orientation(preview: Image.Image) -> bool:
    """Return whether the camera wrote an orientation into the preview; LibRaw adds tags of its own to one without."""
    tags = preview.getexif()
    return _ORIENTATION in tags and not str(tags.get(SOFTWARE, "")).startswith("dcraw")


def _turn(preview: Image.Image, sizes: Any) -> int:
    """Return the EXIF orientation of a preview that states none: the sensor data's, unless it is turned already."""
    orientation = _ORIENTATIONS.get(sizes.flip, 1)
    is_wide, sensor_is_wide = preview.width > preview.height, sizes.width > sizes.height
    return 1 if orientation >= 5 and is_wide != sensor_is_wide else orientation


def _import(extra: str, kind: image_kinds.FileKind) -> Any:
    try:
        return import_module(_PACKAGES[extra])
    except ImportError:
        raise ImageError(f"{kind.what}; {kind.way_out}") from None
