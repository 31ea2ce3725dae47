"""The contenders of bench/speed.py, tiny and in this process: they do the work that they are said to do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("onnx", reason="the extra `train` is not installed")

from captionkit.errors import CaptionkitError
from coldstart import ColdStart
from machine import Machine
from ours import Onnx, Torch
from peers import blip, pixels, textbook, vit_gpt2
from photos import made_photos
from speed_cases import ARITHMETIC, COMMAND, FORCED, LIBRARY, ONCE, PARTS, SINGLES, STAGES, STEPS, case, reading

LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return made_photos(tmp_path_factory.mktemp("made"), 8, (160, 120))


@pytest.mark.slow
def test_the_same_work_is_counted_on_onnx_runtime_and_on_torch(model_folder: Path, images: list[Path]) -> None:
    onnx, torch = (kind(str(model_folder), images, threads=1) for kind in (Onnx, Torch))
    for name in (case(1, 1), case(3, 8), FORCED):
        counted, told = onnx.prepare(name), torch.prepare(name)
        assert counted["words"] == told["words"] and counted["steps"] == told["steps"]
        assert counted["pictures"] == told["pictures"] == (8 if "batch 8" in name else SINGLES)
        for stage in STAGES[1:]:
            # torch's summary counts shapes, ONNX Runtime's profile what was executed.
            assert counted["work"][stage]["flops"]["float32"] == pytest.approx(told["work"][stage]["flops"]["float32"])
            assert counted["work"][stage]["passes"] == told["work"][stage]["passes"]
    assert counted["steps"] == STEPS


def test_stages_add_up(model_folder: Path, images: list[Path]) -> None:
    found = Onnx(str(model_folder), images, threads=1).run(case(3, 8))
    assert sum(found[stage] for stage in STAGES) == pytest.approx(found["total"])
    assert all(value > 0 for value in found.values())


def test_a_broken_photo_is_named(model_folder: Path, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(CaptionkitError, match=r"empty\.jpg"):
        Onnx(str(model_folder), [*images[:3], tmp_path / "empty.jpg"], threads=1).run(case(3, 1))


def test_others_tell_as_many_tokens(images: list[Path]) -> None:
    encoder = {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 16), "grid": 2}
    vision = {**LAYERS, "image_size": 32, "patch_size": 16}
    made = {
        "textbook": textbook(images, 1, 32, encoder, features=16, embedding=8, hidden=8, attention=4, vocabulary=50),
        "vit-gpt2": vit_gpt2(
            images,
            1,
            vit=vision,
            gpt2={"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1},
        ),
        "blip": blip(
            images,
            1,
            text={**LAYERS, "encoder_hidden_size": 16, "vocab_size": 50, "bos_token_id": 1, "sep_token_id": 2},
            vision=vision,
        ),
    }
    for name, peer in made.items():
        for chosen in (FORCED, ONCE) if name == "textbook" else (FORCED,):
            facts = peer.prepare(chosen)  # which counts the tokens
            assert facts["steps"] == STEPS and facts["parameters"] > 0
            assert peer.run(chosen)["total"] > 0
    assert pixels(images[0], 32).shape == (1, 3, 32, 32)


def test_vit_gpt2_has_the_size_of_the_published_one() -> None:
    import torch

    with torch.device("meta"):
        peer = vit_gpt2([Path("photo.jpg")], 1)
    assert sum(p.numel() for p in peer._model.parameters()) == pytest.approx(239e6, rel=2e-3)


def test_the_machine_has_rates() -> None:
    machine = Machine(1, squares=(64,), convs=((1, 8, 8, 8),), seconds=0.02)
    for name in (*ARITHMETIC, reading(3_000_000)):
        assert machine.prepare(name) == {}
        assert machine.run(name)["rate"] > 1e6


@pytest.mark.slow
def test_cold_starts_and_their_parts(model_folder: Path, photos: Path) -> None:
    cold = ColdStart(str(model_folder), photos / "one.jpg")
    assert cold.run(COMMAND)["total"] > 0
    found = cold.run(LIBRARY)
    assert all(found[part] > 0 for part in PARTS)
    # What is left is the printing of the figures and the pipe.
    assert 0 <= found["total"] - sum(found[part] for part in PARTS) < 0.5 * found["total"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [COMMAND, LIBRARY])
def test_a_cold_start_that_fails_says_why(model_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CaptionkitError, match=r"missing\.jpg"):
        ColdStart(str(model_folder), tmp_path / "missing.jpg").run(name)
