"""Images that a phone writes, rotated by their metadata: command line and service give the upright image's caption."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

import captionkit
from captionkit.cli import main as cli
from image_bytes import encoded, exif

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

EXAMPLE = Path(captionkit.__file__).parent / "assets" / "examples" / "cat.jpg"


def heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, which writes HEIC")
    pytest.importorskip("pi_heif")
    file = io.BytesIO()
    made = pillow_heif.from_pillow(image)
    made.info["exif"] = exif(6).tobytes()
    made.save(file, quality=95)
    return file.getvalue()


def avif(image: Image.Image) -> bytes:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    return encoded(image, "AVIF", quality=95, exif=exif(6))


@pytest.mark.parametrize("make", [heic, avif])
def test_an_image_rotated_by_its_metadata_is_captioned_upright(
    make: Callable[[Image.Image], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from starlette.testclient import TestClient

    from captionkit.serve.app import create_app
    from captionkit.serve.settings import Settings

    with Image.open(EXAMPLE) as image:
        upright, sideways = image.convert("RGB"), image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    model = captionkit.load(threads=1)
    expected = model.caption(upright).text
    assert model.caption(sideways).text != expected  # so that the caption tells which way up it was seen
    path = tmp_path / f"IMG_0001.{make.__name__.upper()}"
    path.write_bytes(make(sideways))
    assert cli.main(["caption", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"][0]["text"] == expected
    with TestClient(create_app(model, Settings())) as client:
        reply = client.post(
            "/v1/captions", content=path.read_bytes(), headers={"Content-Type": f"image/{make.__name__}"}
        )
    assert reply.json()["results"][0]["captions"][0]["text"] == expected
