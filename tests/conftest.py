"""What several test files share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Take interrupts even where the tests run in the background, as a shell has those ignore them."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # not every system has all of them
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))  # read when torch is imported


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    """Processes that a failed test has left would slow down the others, and hold up the end."""
    yield
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for a test, and no export, which takes longer than the training."""
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "onnx", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and pretrained weights; tests that want it are skipped where it is not."""
    root = Path(os.environ.get("CAPTIONKIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}; set CAPTIONKIT_SHARED to a folder with data/ and weights/")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small images."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name, size in (("one.jpg", (90, 60)), ("two.png", (40, 80)), ("000000000042.jpg", (64, 64))):
        coarse = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a tiny model with random weights and no graphs."""
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    from captionkit.data.images import Preprocessing
    from captionkit.data.tokenizer import Tokenizer
    from captionkit.inference.model_folder import CARD, TOKENIZER, WEIGHTS, write_model
    from captionkit.inference.search import Decoding
    from captionkit.models.captioning_model import CaptioningModel, ModelConfig
    from captionkit.models.decoder_config import ShowAttendTellConfig
    from captionkit.models.encoder import EncoderConfig
    from captionkit.models.serialization import architecture, weights

    torch.manual_seed(0)
    text = Tokenizer.train(
        ["a dog runs on the grass", "a man's red boat by the sea", "two cats sleep"], min_frequency=1
    )
    config = ModelConfig(
        EncoderConfig("mobilenet-v2", batch_norm=True),
        ShowAttendTellConfig(embedding=16, hidden=24, attention=12),
        memory=20,
    )
    model = CaptioningModel(config, len(text)).eval()
    # Larger weights than at the start of training make the captions differ from image to image.
    for parameter in model.decoder.parameters():
        parameter.data.mul_(4)
    preprocessing = Preprocessing(height=64, width=96)
    contents = {
        TOKENIZER: text.to_json().encode(),
        WEIGHTS: weights(model),
        CARD: b"# a model for tests\n",
    }
    tables = {
        "architecture": architecture(model, preprocessing),
        "preprocessing": preprocessing.to_dict(),
        "decoding": Decoding(num_beams=3, max_length=8).to_dict(),
        "provenance": {},
    }
    return write_model(tmp_path_factory.mktemp("models") / "untrained", tables, contents).path


@pytest.fixture(scope="session")
def model_folder(
    untrained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The tiny model with its ONNX graphs; tests only read it, as the processes of one run of pytest share it.

    The export takes a large part of the quick tests' time, so that pytest's cache holds it until the code changes.
    """
    import shutil

    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, cache = root / "model_folder", request.config.cache if hasattr(request.config, "cache") else None
    store = cache.mkdir("model_folder") if cache else root
    with FileLock(store / "lock"):
        if not folder.exists():
            exported = store / f"exported-{_fingerprint()}"
            if not exported.exists():
                for outdated in store.glob("exported-*"):
                    shutil.rmtree(outdated)
                made = Path(shutil.copytree(untrained, tmp_path_factory.mktemp("models") / "tiny"))
                _export(made, photos, exported)
            shutil.copytree(exported, folder)
    return folder


def _export(made: Path, photos: Path, to: Path) -> None:
    import shutil

    from captionkit.export.export_model import export_model

    export_model(made, images=photos)
    unfinished = shutil.copytree(made, to.with_name(f"unfinished-{os.getpid()}"))
    Path(unfinished).rename(to)


def _fingerprint() -> str:
    """Identify the code that makes `model_folder`, and the versions of what it uses."""
    import hashlib
    from importlib.metadata import version

    import captionkit

    root = Path(captionkit.__file__).parent
    files = [
        Path(__file__),
        *(f for name in ("data", "export", "inference", "models", "utils") for f in (root / name).rglob("*.py")),
    ]
    digest = hashlib.sha256(" ".join(map(version, ("numpy", "onnx", "onnxscript", "torch"))).encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small captioned dataset of coloured shapes; tests only read it."""
    from shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformers backbone with random weights, saved as a folder."""
    from shapes import make_backbone

    return make_backbone(tmp_path_factory.mktemp("backbone") / "tiny")
