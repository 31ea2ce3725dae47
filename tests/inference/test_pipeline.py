"""The drop-in for transformers' removed pipeline, and the list of models."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.errors import CaptionkitError, ImageError, ModelError
from captionkit.inference.models_list import list_models, models_table
from captionkit.inference.pipeline import decoding_options
from captionkit.viz.samples import sample_photos


@pytest.fixture(scope="module")
def captions() -> captionkit.inference.pipeline.ImageToTextPipeline:
    return captionkit.pipeline("image-to-text", device=-1)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [photo for _, photo in sample_photos()][:2]


def test_results_have_the_shape_of_transformers(captions, photos, tmp_path: Path) -> None:
    one = captions(photos[0])
    assert one == [{"generated_text": captionkit.load().caption(photos[0]).text}]
    assert captions(photos) == [one, captions(photos[1])]
    assert captions([photos[0]]) == [one]
    photos[0].save(tmp_path / "photo.png")
    assert captions(str(tmp_path / "photo.png")) == captions(tmp_path / "photo.png") == one
    assert captions((tmp_path / "photo.png").read_bytes()) == one
    assert captions(io.BytesIO((tmp_path / "photo.png").read_bytes())) == one
    assert captions(np.asarray(photos[0])) == one
    streamed = captions(iter(photos), batch_size=2)
    assert next(streamed) == one
    several = captions(photos[0], generate_kwargs={"num_beams": 4, "num_return_sequences": 3})
    assert len(several) == 3
    assert all(list(record) == ["generated_text"] for record in several)


def test_options_are_obeyed(captions, photos) -> None:
    short = captions(photos[0], max_new_tokens=3)[0]["generated_text"]
    assert len(short.split()) <= 3
    assert captions(photos[0], generate_kwargs={"max_new_tokens": 3})[0]["generated_text"] == short
    assert captions(photos[0], prompt="two people")[0]["generated_text"].startswith("two people")


def test_options_of_generate() -> None:
    assert decoding_options({"max_new_tokens": 9, "num_beams": 2, "early_stopping": True}) == {
        "max_length": 9,
        "num_beams": 2,
        "early_stopping": "true",
    }
    assert decoding_options({"max_length": 20, "temperature": 0.5, "top_k": None}) == {"max_length": 19}
    assert decoding_options({"do_sample": True, "top_p": 0.9}) == {"temperature": 1.0, "top_p": 0.9}
    with pytest.raises(CaptionkitError, match="'max_tokens' is not known; use some of max_new_tokens, "):
        decoding_options({"max_tokens": 3})


def test_what_is_wrong_is_said_in_a_line(captions, tmp_path: Path) -> None:
    with pytest.raises(CaptionkitError, match=r"task 'text-generation' is none of captionkit's; use 'image-to-text'"):
        captionkit.pipeline("text-generation")
    with pytest.raises(ImageError, match="cannot be read"):
        captions([tmp_path / "absent.png"])


def test_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--Xenova--vit-gpt2-image-captioning" / "snapshots" / "1"
    (snapshot / "onnx").mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "vision-encoder-decoder"}))
    (snapshot / "onnx" / "encoder_model.onnx").write_bytes(b"0" * 3_000_000)
    listed = {model.name: model for model in list_models()}
    assert listed["bundled"].where == "bundled"
    in_8_bits = captionkit.load().folder.config["int8"]["steps"][-1]["cider"]
    assert listed["bundled"].quality == f"CIDEr-D {in_8_bits:.3f} (everyday val)"  # of the graphs that run
    assert set(listed["bundled"].can) == {"words", "attention", "confidence"}
    assert (listed["vit-gpt2"].where, listed["vit-gpt2"].megabytes) == ("cached", 3)
    assert listed["florence-2-base"].where == "hub"
    assert listed["blip-base"].where == "import"
    table = models_table(list(listed.values())).splitlines()
    assert len(table) == 1 + len(listed)
    assert all(len(line) < 120 for line in table)
    with pytest.raises(ModelError, match=r"^blip-base: is imported first; run `captionkit import Salesforce/"):
        captionkit.load("blip-base")
