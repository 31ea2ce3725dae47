"""What tests of the service share: the bundled model, a client of its service, and a photo."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import captionkit

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


@pytest.fixture(scope="module")
def model() -> captionkit.Captioner:
    return captionkit.load(threads=1)


@pytest.fixture(scope="module")
def client(model: captionkit.Captioner) -> Iterator[TestClient]:
    from fastapi.testclient import TestClient

    from captionkit.serve.app import create_app
    from captionkit.serve.settings import Settings

    with TestClient(create_app(model, Settings())) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo(photos: Path) -> bytes:
    return (photos / "one.jpg").read_bytes()


@pytest.fixture(scope="module")
def encoded(photo: bytes) -> str:
    return base64.b64encode(photo).decode()
