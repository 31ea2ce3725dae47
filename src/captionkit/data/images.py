"""Image input: decode a file, bytes, a Pillow image or an array to upright RGB, and preprocess it for a model.

No other code opens or resizes images, so training, evaluation and captioning see the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import reprlib
import shlex
import stat
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from captionkit.data import image_extras, image_kinds, image_repair
from captionkit.errors import ImageError, ImageTooLargeError, ModelError
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.dataclasses import check_fields
from captionkit.utils.paths import IMAGE_SUFFIXES

MAX_PIXELS = 2**27  # 134 megapixels, above any common camera; 512 MiB once decoded
MAX_BYTES = 2**28  # 256 MiB of file
MAX_SIDE = 4096  # of a model's input

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | ArchiveMember | Image.Image | np.ndarray
Box = tuple[float, float, float, float]  # left, top, right, bottom
Fit = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

#: luma weights of red, green and blue (ITU-R BT.601, as in Pillow's conversion to greyscale)
_LUMA = np.array([0.299, 0.587, 0.114])


class Colour(NamedTuple):
    """Factors of colour augmentation; 1 leaves the image unchanged.

    `brightness` scales an image, `contrast` its distance from its mean grey, `saturation` each pixel's distance from
    its own grey. Hue is unchanged unless a channel clips at black or white.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


# File formats that every installation opens, by Pillow's name and first bytes. Pillow's other plugins never see a file:
# some start programs (EPS), and many are rarely tested and rarely fixed. Image.open is not used because it warns about
# a large image before its size can be checked, and Python cannot suppress a warning in one thread only.
_KINDS = {
    "Jpeg": rb"\xff\xd8\xff",  # also MPO, whose first image is a JPEG
    "Png": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "Gif": rb"GIF8[79]a",
    "Avif": rb"....ftyp(?=.{0,60}avi[fs])",  # among the brands; without it, the file may be HEIC
    "Tiff": rb"II[*+]\0|MM\0[*+]",
    "Bmp": rb"BM",
    "Ppm": rb"P[1-6]\s",
}
# Formats that an extra opens (see captionkit.data.image_extras). RAW goes first: some files begin like a TIFF.
_RAW, _HEIF = "Raw", "Heif"
_ALL_KINDS = {_RAW: image_kinds.RAW_START, **_KINDS, _HEIF: image_kinds.HEIC_START}

SUFFIXES = IMAGE_SUFFIXES

#: suffixes of image formats that are not supported, and what converts them to JPEG
UNOPENED = {
    ".jxl": "`djxl` (libjxl)",
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".jxr", ".psd", ".tga"), "`magick` (ImageMagick)"),
}

_ORIENTATION = 0x0112  # the EXIF tag, and the operation that undoes each of its values except 1
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_URL = re.compile(r"(?i)(https?|ftps?|s3|gs|file)://")
_DATA_URL = re.compile(r"(?i)data:image/[\w.+-]+[;,]")
_NO_END = "lacks its end marker, but none of its pixels; captioned all the same"

# TIFF tags
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _IMAGE_DESCRIPTION, _XMP = 258, 262, 339, 270, 700

# Cameras and editors often write damaged metadata, of which only the orientation is used here.
_METADATA_WARNINGS = r"PIL\.(Tiff|Png)ImagePlugin$"


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _are_three(values: Any, low: float, high: float) -> bool:
    numbers = isinstance(values, (tuple, list)) and all(type(value) in (int, float) for value in values)
    return numbers and len(values) == 3 and all(low <= value <= high for value in values)


_RULES = {
    "height": (_is_side, f"a whole number from 1 to {MAX_SIDE}"),
    "width": (_is_side, f"a whole number from 1 to {MAX_SIDE}"),
    "fit": (get_args(Fit).__contains__, f"one of {', '.join(get_args(Fit))}"),
    "interpolation": (get_args(Interpolation).__contains__, f"one of {', '.join(get_args(Interpolation))}"),
    "mean": (lambda values: _are_three(values, 0, 1), "three numbers from 0 to 1"),
    "std": (lambda values: _are_three(values, 0.001, 1000), "three numbers from 0.001 to 1000"),
}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a model's input images, stored with the model. Raises ModelError naming an invalid value.

    `fit`: "squash" the whole image to `height` x `width`, "crop" the largest central region of that aspect ratio, or
    "pad" the image with the mean colour to that aspect ratio. `mean` and `std` are per channel, on the 0..1 scale.
    """

    height: int = 224
    width: int = 224
    fit: Fit = "squash"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name, (allowed, wanted) in _RULES.items():
            value = getattr(self, name)
            if not allowed(value):
                raise ModelError(f"preprocessing: {name} must be {wanted}, not {reprlib.repr(value)}")
            if isinstance(value, list):  # from JSON
                object.__setattr__(self, name, tuple(value))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's `config.json` stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote; missing fields take their defaults, an unknown one raises ModelError."""
        check_fields(cls, values, "preprocessing")
        return cls(**values)

    @property
    def mean_bytes(self) -> tuple[int, int, int]:
        """Return the mean colour, which normalises to 0, as bytes: the colour of padding."""
        red, green, blue = (round(255 * mean) for mean in self.mean)
        return red, green, blue

    def region(self, width: float, height: float) -> Box:
        """Return the region in pixels that the model sees of a `width` x `height` image ("pad" extends beyond it)."""
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        choose = min if self.fit == "crop" else max
        scale = choose(width / self.width, height / self.height)
        x, y = (width - scale * self.width) / 2, (height - scale * self.height) / 2
        return x, y, width - x, height - y


def describe(source: Source) -> str:
    """Return a short, printable name of `source` for messages: its path, "bytes", "image" or "array"."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, Image.Image):
        source = getattr(source, "filename", "") or "image"
    elif isinstance(source, ArchiveMember):
        source = str(source)
    elif _is_file(source) and isinstance(name := getattr(source, "name", None), str):
        source = name
    elif not isinstance(source, (str, os.PathLike)):
        return type(source).__name__
    name = os.fsdecode(source)
    return name if name and name.isprintable() else repr(name)


def url_problem(name: str) -> str:
    """Return why `name` cannot be opened if it is a URL, and what to do; "" if it is not a URL."""
    if _DATA_URL.match(name):
        return "an image in base64 text; decode what follows the comma and pipe it in: base64 -d | captionkit caption -"
    scheme = _URL.match(name)
    if not scheme:
        return ""
    if scheme[1].lower() == "file":
        return "a URL of a file; give its path instead"
    fetch = {"s3": "aws s3 cp {} -", "gs": "gcloud storage cat {}"}.get(scheme[1].lower(), "curl -sL {}")
    return f"a URL, which is not fetched; pipe it in: {fetch.format(shlex.quote(name))} | captionkit caption -"


def suffix_of(data: bytes) -> str:
    """Return the usual suffix of a file with these bytes, such as ".jpg"; "" if it is not an image that is opened."""
    kind = next((kind for kind, start in _ALL_KINDS.items() if re.match(start, data, re.DOTALL)), "")
    known = {"": "", "Jpeg": ".jpg", "Tiff": ".tif", _HEIF: ".heic", _RAW: ".dng"}
    return known.get(kind, f".{kind.lower()}")


def open_image(
    source: Source,
    *,
    target: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    notes: list[str] | None = None,
) -> Image.Image:
    """Return the image in RGB: upright by EXIF orientation, transparency over white, first frame of an animation.

    `source` is a path, the bytes of a file, a binary file object (read from its start if seekable), a member of an
    archive, a Pillow image (returned unchanged if nothing has to change), or an array of shape H x W, H x W x 1, 3 or 4
    (RGBA) in bool, uint8, uint16 or float from 0 to 1. `target`, (height, width), is the size to which the caller will
    shrink the upright image: a JPEG is then decoded at a half, quarter or eighth of its size if no side becomes smaller
    than that. Damage outside the pixel data is tolerated; what the user should know of it is appended to `notes`.
    Thread-safe. Every problem with the image raises ImageError.
    """
    try:
        return _open(source, target, max_pixels, [] if notes is None else notes)
    except ImageError as error:
        raise type(error)(f"{describe(source)}: {error}") from None
    except Exception as error:  # Pillow raises almost any exception for a damaged file
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise ImageError(
            f"{describe(source)}: cannot be decoded ({reason}); replace it or save it again as JPEG or PNG"
        ) from error


def embedded_texts(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    """Return the XMP packet in an image and its EXIF description; empty where there is none.

    Raises ImageError for what is no image. RAW files are not looked into.
    """
    data = _read(source)
    kind = _kind(data)
    if kind == _RAW or (kind == "Tiff" and image_extras.is_raw_tiff(data)):
        return b"", ""
    try:
        image = _header(kind, data)
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or _tags(image).get(_XMP) or b""
        described = image.getexif().get(_IMAGE_DESCRIPTION, "")
    except Exception:  # Pillow raises almost any exception for damaged metadata
        return b"", ""
    return packet.encode() if isinstance(packet, str) else bytes(packet), str(described).strip()


def preprocess(
    image: Image.Image,
    preprocessing: Preprocessing,
    *,
    box: Box | None = None,
    flip: bool = False,
    colour: Colour | None = None,
) -> np.ndarray:
    """Preprocess an RGB `image` for the model: float32 [3, height, width], C-contiguous.

    For training, `box` crops the image, in fractions of its width and height, and the crop is then fitted like an image
    of its own; `flip` mirrors the result horizontally, and `colour` changes its colours. Padding is 0, the mean colour.
    """
    width, height = preprocessing.width, preprocessing.height
    out = np.zeros((3, height, width), np.float32)
    patch, (x0, y0, x1, y1) = _fitted(image, preprocessing, box)
    pixels = np.asarray(patch if colour is None else _recoloured(patch, colour)).transpose(2, 0, 1)
    view = out[:, y0:y1, width - x1 : width - x0][:, :, ::-1] if flip else out[:, y0:y1, x0:x1]
    mean, std = (np.array(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    np.multiply(pixels, (1 / (255 * std)).astype(np.float32), out=view)
    np.subtract(view, (mean / std).astype(np.float32), out=view)
    return out


def preprocess_bytes(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocess without normalisation: uint8 [height, width, 4], the channels red, green, blue and padding."""
    patch, (left, top, _, _) = _fitted(image, preprocessing, None)
    width, height = preprocessing.width, preprocessing.height
    if patch.size != (width, height):
        whole = Image.new("RGB", (width, height), preprocessing.mean_bytes)
        whole.paste(patch, (left, top))
        patch = whole
    held = np.frombuffer(patch.tobytes("raw", "RGBX"), np.uint8)  # Pillow's own memory layout
    return held.reshape(height, width, 4)  # [H*W*4] -> [H,W,4]


def to_bytes(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Convert `preprocess` output [B,3,height,width] to that of `preprocess_bytes`: uint8 [B,height,width,4]."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    pixels = np.rint((images * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.pad(pixels.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, 1)))  # [B,3,H,W] -> [B,H,W,4]


def load_image(
    source: Source,
    preprocessing: Preprocessing,
    *,
    box: Box | None = None,
    flip: bool = False,
    colour: Colour | None = None,
    max_pixels: int = MAX_PIXELS,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Call `open_image` and `preprocess`, decoding no more of a JPEG than needed: float32 [3, height, width]."""
    left, top, right, bottom = _checked(box)
    target = math.ceil(preprocessing.height / (bottom - top)), math.ceil(preprocessing.width / (right - left))
    image = open_image(source, target=target, max_pixels=max_pixels, notes=notes)
    return preprocess(image, preprocessing, box=box, flip=flip, colour=colour)


def _recoloured(image: Image.Image, colour: Colour) -> Image.Image:
    """Change brightness, contrast and saturation, in this order, rounding once."""
    brightness, contrast, saturation = colour
    grey = _LUMA @ np.asarray(image).mean((0, 1))  # [H,W,3] -> [3] -> []
    # All three are linear, so they combine to one matrix, which Pillow applies to the bytes.
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)  # [3,3] + [3] -> [3,3]
    offset = (1 - contrast) * brightness * grey
    return image.convert("RGB", tuple(value for row in matrix.tolist() for value in (*row, offset)))


def _open(source: Source, target: tuple[int, int] | None, max_pixels: int, notes: list[str]) -> Image.Image:
    _ignore_metadata_warnings()
    if isinstance(source, Image.Image):
        return _upright(_loaded(source, None, max_pixels))
    if isinstance(source, np.ndarray):
        return _upright(_loaded(Image.fromarray(_to_uint8(source)), None, max_pixels))
    data = _read(source)
    kind = _kind(data)
    if kind == "Jpeg" and not image_repair.jpeg_ends(data):
        data = _with_end(data, max_pixels, notes)
    try:
        return _decoded(kind, data, target, max_pixels)
    except ImageError:
        raise
    except Exception:  # Pillow raises almost any exception for a damaged file
        repaired = image_repair.REPAIRS[kind](data) if kind in image_repair.REPAIRS else None
        if repaired is None:
            raise
    return _decoded(kind, repaired, target, max_pixels)


def _decoded(kind: str, data: bytes, target: tuple[int, int] | None, max_pixels: int) -> Image.Image:
    is_raw = kind == _RAW or (kind == "Tiff" and image_extras.is_raw_tiff(data))
    image = image_extras.raw_image(data, max_pixels) if is_raw else _header(kind, data)
    return _upright(_loaded(image, target, max_pixels))


def _with_end(data: bytes, max_pixels: int, notes: list[str]) -> bytes:
    """Return a JPEG without end marker with the marker added. Raises ImageError if more is missing."""

    def pixels(data: bytes) -> bytes:
        return hashlib.sha256(_loaded(_header("Jpeg", data), None, max_pixels).tobytes()).digest()

    whole = image_repair.jpeg_with_end(image_repair.jpeg(data) or data, pixels)
    if whole is None:
        raise ImageError("truncated: the end of the image is missing; copy or download it again")
    notes.append(_NO_END)
    return whole


def _loaded(image: Image.Image, target: tuple[int, int] | None, max_pixels: int) -> Image.Image:
    """Return `image` with its pixels decoded."""
    if image.format == "TIFF":
        _check_tags(image)
        if Image.MAX_IMAGE_PIXELS:  # above it, Pillow would warn while decoding a TIFF
            max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    if image.width * image.height > max_pixels:
        raise ImageTooLargeError(f"{image.width} x {image.height} is more than {max_pixels} pixels; shrink it first")
    if target and image.format == "JPEG":
        height, width = target if _orientation(image) < 5 else target[::-1]
        image.draft("RGB", (width, height))
    image.load()  # before the orientation: a PNG may store it after the pixels, and a TIFF applies it itself
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Return a decoded `image` in RGB, rotated by its EXIF orientation."""
    orientation = _orientation(image)
    image = _to_rgb(image)
    if orientation != 1:
        image = image.transpose(_UPRIGHT[orientation])
        image.info.clear()  # or the next reader would rotate it again
    return image


def _ignore_metadata_warnings() -> None:
    # Once per process, unless another filter was added on top: catch_warnings would undo changes of other threads.
    rule = ("ignore", None, UserWarning, re.compile(_METADATA_WARNINGS), 0)
    if not warnings.filters or warnings.filters[0] != rule:
        warnings.filterwarnings("ignore", category=UserWarning, module=_METADATA_WARNINGS)


def _is_file(source: object) -> bool:
    return callable(getattr(source, "read", None)) and not isinstance(source, ArchiveMember)


def _read(source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | ArchiveMember) -> bytes:
    """Return the bytes of the file that `source` is or names."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(memoryview(source).nbytes)
        return bytes(source)
    if not isinstance(source, (str, os.PathLike, ArchiveMember)) and not _is_file(source):
        raise ImageError("not a path, bytes, binary file, Pillow image or numpy array; give one of these")
    try:
        if isinstance(source, ArchiveMember):
            _check_bytes(source.size)
            return source.read()
        if isinstance(source, (str, os.PathLike)):
            return _read_path(source)
        return _read_file(source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read ({reason}); check the path and its permissions") from error


def _read_path(path: str | os.PathLike[str]) -> bytes:
    if problem := url_problem(os.fsdecode(path)):
        raise ImageError(problem)
    file = Path(path)
    status = file.stat()  # before opening, which would block on a named pipe
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("a folder or device, not a file; name an image file")
    _check_bytes(status.st_size)
    return file.read_bytes()


def _read_file(file: BinaryIO) -> bytes:
    if isinstance(file, io.BytesIO):  # regardless of its position, which other threads may change
        content: Any = file.getvalue()
    else:
        if callable(seekable := getattr(file, "seekable", None)) and seekable():
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
    if not isinstance(content, bytes):
        raise ImageError("a file that gives text, not bytes; open it with mode 'rb'")
    _check_bytes(len(content))
    return content


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageTooLargeError(f"{size} bytes are more than {MAX_BYTES}; shrink the image first")
    if size == 0:
        raise ImageError("empty; replace it")


def _kind(data: bytes) -> str:
    """Return the image format of `data` by Pillow's name."""
    for kind, start in _ALL_KINDS.items():
        if re.match(start, data, re.DOTALL):
            return kind
    said = f"not an image of a kind that is opened ({', '.join(_KINDS).upper()})"
    found = image_kinds.identify(data)
    raise ImageError(f"{said} but {found.what}; {found.way_out}" if found else f"{said}; save it as JPEG or PNG")


def _header(kind: str, data: bytes) -> Image.Image:
    """Return the image in `data` of format `kind`, with its header read and its pixels not yet decoded."""
    if kind == _HEIF:
        return image_extras.heif_header(data)
    reader = getattr(import_module(f"PIL.{kind}ImagePlugin"), f"{kind}ImageFile")
    try:
        image: Image.Image = reader(io.BytesIO(data))
    except SyntaxError as error:
        if str(error) != "unknown pixel mode":  # raised for TIFFs only
            raise
        raise ImageError(
            "a TIFF of numbers of a kind that is not opened, such as signed ones in colour; "
            "save it with unsigned ones, 8 or 16 bits"
        ) from None
    if kind == "Jpeg":  # in one block: libjpeg decodes rows at block boundaries again
        image.decodermaxblock = len(data)  # type: ignore[attr-defined]
    return image


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF; empty for other images."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _check_tags(image: Image.Image) -> None:
    """Raise ImageError for a TIFF of which Pillow would show something other than the image."""
    tags = _tags(image)
    if image_extras.is_raw(tags):
        raise ImageError(f"{image_kinds.RAW.what}, of which this is a preview; give the file itself")
    if _first(tags.get(_BITS)) == 8 and _first(tags.get(_SAMPLE_FORMAT)) == 2:
        raise ImageError(
            "a TIFF of signed 8-bit numbers, of which none is known to be black; save it with unsigned ones"
        )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
        return value if value in _UPRIGHT else 1
    except Exception:  # damaged metadata must not reject good pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # Pillow's own conversion clips these at 255
        image = _of_many_bits(image)
    if image.mode == "LAB":  # not supported by Pillow's own conversion
        cms = import_module("PIL.ImageCms")
        image = cms.profileToProfile(image, cms.createProfile("LAB"), cms.createProfile("sRGB"), outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, (255, 255, 255))
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _of_many_bits(image: Image.Image) -> Image.Image:
    """Convert an `image` of 16-bit integers or of floats to bytes."""
    pixels, tags = np.asarray(image), _tags(image)
    bits, signed = (_first(tags.get(tag)) for tag in (_BITS, _SAMPLE_FORMAT))
    if image.mode[0] == "I":
        low, high = int(pixels.min()), int(pixels.max())
        if bits == 32:
            raise ImageError("a TIFF of 32-bit whole numbers, of which none is known to be white; save it with 8 or 16")
        if bits == 16 and signed == 2:
            if low < 0:
                raise ImageError(
                    f"a TIFF of signed 16-bit numbers, here from {low} to {high}, of which none is known to be black; "
                    f"save it with unsigned ones, 8 or 16 bits"
                )
            bits = 15
        if low < 0 or high > 65535:
            raise ImageError("has pixels of more than 16 bits; save it with 8 or 16")
        white = 2**bits - 1 if bits in (12, 15) else 65535
        pixels = (pixels.astype(np.uint32) * 65535 // white).astype(np.uint16)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0; Pillow handles this only for 8 bits
        pixels = (65535 if image.mode[0] == "I" else 1) - pixels
    shown = Image.fromarray(_to_uint8(pixels))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        shown.putalpha(Image.fromarray(np.asarray(image) != hidden).convert("L"))
    return shown


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, tuple) and values else values


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Convert `array` to 0..255, of shape H x W, H x W x 3 or H x W x 4."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"shape {array.shape} is not H x W, H x W x 1, H x W x 3 or H x W x 4; reshape it")
    dtype = array.dtype.newbyteorder("=")
    if dtype == np.uint8:
        return array
    if dtype == np.bool_:
        return array * np.uint8(255)
    if dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(dtype, np.floating):
        raise ImageError(f"numbers of type {dtype} are not bool, uint8, uint16 or float; convert them")
    low, high = array.min(), array.max()
    if not (low >= -1e-3 and high <= 1.001):  # resampling overshoots a little; NaN fails both
        raise ImageError(f"numbers from {low:g} to {high:g} do not lie within 0 and 1; scale them or use uint8")
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)


def _fitted(
    image: Image.Image, preprocessing: Preprocessing, box: Box | None
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return the region of `box` in an RGB `image` that the model sees, resized, and its position in the input."""
    (x0, y0, x1, y1), seen = _placement(preprocessing, _cut(_checked(box), image.size))
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    # Above a six-fold reduction the gap saves most of the work; it changes a photo's values by at most about 1 of 255.
    return image.resize((x1 - x0, y1 - y0), resample, seen, reducing_gap=3.0), (x0, y0, x1, y1)


def _checked(box: Box | None) -> Box:
    left, top, right, bottom = box or (0.0, 0.0, 1.0, 1.0)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"box {box} is not left < right and top < bottom within 0..1")
    return left, top, right, bottom


def _cut(box: Box, size: tuple[int, int]) -> Box:
    """Convert the fractional `box` of an image of size `size` (width, height) to pixels."""
    (left, top, right, bottom), (width, height) = box, size
    return left * width, top * height, right * width, bottom * height


def _placement(preprocessing: Preprocessing, cut: Box) -> tuple[tuple[int, int, int, int], Box]:
    """Return where in the output the crop `cut` goes, and which region of the image goes there.

    The region that the model sees may extend beyond the crop; that part is padding, whatever the image shows there.
    """
    size, corner, opposite = (preprocessing.width, preprocessing.height), np.array(cut[:2]), np.array(cut[2:])
    region = np.array(preprocessing.region(*(opposite - corner).tolist())) + np.tile(corner, 2)
    origin, step = region[:2], (region[2:] - region[:2]) / size
    low, high = np.maximum(origin, corner), np.minimum(region[2:], opposite)
    first = np.minimum(np.rint((low - origin) / step), np.subtract(size, 1)).astype(int)
    last = np.maximum(np.rint((high - origin) / step).astype(int), first + 1)  # a sliver still shows
    return (*first.tolist(), *last.tolist()), (*low.tolist(), *high.tolist())
