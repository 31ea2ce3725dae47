"""What is said of images that are given as base64 text, and of TIFFs whose numbers are of no kind that is opened."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from captionkit.cli.inputs import find_inputs
from captionkit.data.images import open_image
from captionkit.errors import ImageError


def test_an_image_in_base64_text_is_told_how_to_be_piped_in() -> None:
    name = "data:image/png;base64," + "iVBORw0KGgo" * 1000
    (found,) = find_inputs([name])
    assert "base64 -d | captionkit caption -" in found.error
    assert len(found.error) < 600
    with pytest.raises(ImageError, match="an image in base64 text"):
        open_image("data:image/jpeg;base64,/9j/")


def test_a_tiff_of_signed_numbers_in_colour_says_so() -> None:
    """Each colour of two bytes, made of an RGB image by writing them in the place of the first one's tags."""
    plain = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 100, np.uint8)).save(plain, "TIFF", tiffinfo={339: (1, 1, 1)})
    data = bytearray(plain.getvalue())
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, _, _, where = struct.unpack_from("<HHII", data, entry)
        if tag in (258, 339):  # bits of each sample, and whether they are signed
            struct.pack_into("<3H", data, where, *([16] * 3 if tag == 258 else [2] * 3))
    with pytest.raises(ImageError, match="a TIFF of numbers of a kind that is not opened, such as signed ones"):
        open_image(bytes(data))
