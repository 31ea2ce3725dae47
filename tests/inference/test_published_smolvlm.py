"""Published models that are asked about an image in tiles say what transformers' `generate` says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")
pytest.importorskip("skimage")

import captionkit  # noqa: E402
from captionkit.errors import CaptionkitError, ModelError  # noqa: E402
from captionkit.eval.evaluate import evaluate_model  # noqa: E402
from captionkit.eval.tune_decoding import tune_model  # noqa: E402
from captionkit.inference.published.tiles import TileProcessor  # noqa: E402
from published import change_json  # noqa: E402
from published_smolvlm import Chat, let_end, make_chat, mixed_images, publish_chat  # noqa: E402
from real_photos import make_photos  # noqa: E402
from tiers import slow  # noqa: E402


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return mixed_images()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, images: list[Any]) -> tuple[Path, Chat]:
    chat = make_chat()
    let_end(chat, images[:6])
    return publish_chat(chat, tmp_path_factory.mktemp("smolvlm") / "published"), chat


@pytest.fixture
def folder(published: tuple[Path, Chat], tmp_path: Path) -> Path:
    """A copy of the published folder that a test may change."""
    return Path(shutil.copytree(published[0], tmp_path / "smolvlm"))


@pytest.mark.parametrize("beams", [1, *slow(3)])
def test_captions_are_those_of_generate(published: tuple[Path, Chat], images: list[Any], beams: int) -> None:
    path, chat = published
    captioner = captionkit.load(path, threads=1)
    expected = [chat.generate(image, num_beams=beams, max_new_tokens=12) for image in images]
    settings = {"num_beams": beams, "max_length": 12}
    assert [list(caption.tokens) for caption in captioner.caption(images, **settings)] == expected
    assert [list(captioner.caption(image, **settings).tokens) for image in images[:4]] == expected[:4]
    assert len(set(map(tuple, expected))) > 10, "captions depend on the image"
    assert len({len(answer) for answer in expected}) > 2, "captions end"


@pytest.mark.slow
def test_smolvlm_and_images_that_are_not_split(tmp_path: Path, images: list[Any]) -> None:
    chat = make_chat("smolvlm", do_image_splitting=False)
    captioner = captionkit.load(publish_chat(chat, tmp_path / "published"), threads=1, style="detailed")
    expected = [chat.generate(image, "detailed", max_new_tokens=8) for image in images]
    assert [list(caption.tokens) for caption in captioner.caption(images, max_length=8, num_beams=1)] == expected


def test_prompts_and_pixels_are_those_of_transformers(published: tuple[Path, Chat], images: list[Any]) -> None:
    path, chat = published
    for style, some in (("short", images), ("detailed", images[13:15]), ("long", images[13:15])):
        folder = captionkit.load(path, threads=1, style=style).folder
        for image in some:
            given = chat.inputs(image, style)
            pixels = folder.preprocessing(image)
            assert folder.chat.ids(*folder.preprocessing.grid(pixels)) == given["input_ids"][0].tolist()
            np.testing.assert_allclose(folder.preprocessing.tiles(pixels), given["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_image_splitting": False},
        {"do_image_splitting": False, "do_resize": False},
        {"size": {"longest_edge": 90}, "resample": 3},
        {"size": {"longest_edge": 12}, "do_normalize": False},
        {"max_image_size": {"longest_edge": 27}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]},
    ],
)
def test_image_settings_are_those_of_transformers(images: list[Any], settings: dict[str, Any]) -> None:
    from transformers import Idefics3ImageProcessorPil

    usual = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16}}
    theirs = Idefics3ImageProcessorPil(**{**usual, **settings})
    ours = TileProcessor.from_config(json.loads(theirs.to_json_string()))
    for image in images[6:]:
        expected = theirs([image], return_tensors="np", return_row_col_info=True)
        pixels = ours(image)
        np.testing.assert_allclose(ours.tiles(pixels), expected["pixel_values"][0], atol=1e-5)
        assert ours.grid(pixels) == (expected["rows"][0][0], expected["cols"][0][0])
        assert max(ours.grid(pixels)) <= max(ours.largest_grid)


def test_a_chat_model_does_what_others_do(published: tuple[Path, Chat], images: list[Any]) -> None:
    path, _ = published
    captioner = captionkit.load(path, threads=1)
    assert captioner.capabilities == {"constraints", "prompt"}
    image = images[0]
    assert captioner.decoding.max_length == 256
    assert "the" in captioner.caption(image, force_words=["the"], num_beams=2, max_length=8).text
    assert captioner.caption(image, prefix="a do", max_length=8).text.startswith("a do")
    begun = captioner.tokenizer.encode_phrase("a do", first=True)[0]
    assert captioner.tokenizer.backend.decode(begun) == " a do", "an answer begins behind 'Assistant:'"
    sampled = captioner.caption(images[4:8], temperature=1.0, num_captions=3, max_length=6)
    assert all(len(caption.alternatives) == 2 for caption in sampled)
    with pytest.raises(CaptionkitError, match="gives no attention maps"):
        captioner.check_attention()
    with pytest.raises(CaptionkitError, match="positions for 512 tokens; lower max_length"):
        captioner.caption(image, max_length=500, min_length=499, num_beams=1)


def test_the_usual_length_leaves_room_for_the_longest_prompt(folder: Path, images: list[Any]) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["max_position_embeddings"] = 200
    change_json(folder / "config.json", **settings)
    captioner = captionkit.load(folder, threads=1)
    left = captioner.decoding.max_length
    assert captioner.folder.longest_prompt + left == 200
    caption = captioner.caption(images[0], min_length=left, num_beams=1)
    assert len(caption.tokens) == left


def test_few_images_are_decoded_at_once_where_hypotheses_are_large(
    published: tuple[Path, Chat], images: list[Any]
) -> None:
    captioner = captionkit.load(published[0], threads=1)
    settings = {"num_beams": 2, "max_length": 5}
    whole = [caption.text for caption in captioner.caption(images, **settings)]
    seen = []
    begin = captioner.stepper.begin

    def counted(batch: Any) -> Any:
        seen.append(len(batch))
        return begin(batch)

    captioner.stepper.begin, captioner.stepper.max_hypotheses = counted, 7
    assert [caption.text for caption in captioner.caption(images, **settings)] == whole
    opened = [captioner.open(image) for image in images[:4]]
    found = captioner.describe(opened, replace(captioner.decoding, **settings))
    assert [outcome.caption.text for outcome in found if outcome.caption] == whole[:4]
    assert max(seen) == 3
    assert sum(seen) == len(images) + 4


def test_chat_templates_are_found_where_transformers_finds_them(folder: Path) -> None:
    expected = captionkit.load(folder, threads=1).folder.chat.ids(2, 2)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    assert captionkit.load(folder, threads=1).folder.chat.ids(2, 2) == expected
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=template)
    assert captionkit.load(folder, threads=1).folder.chat.ids(2, 2) == expected
    change_json(folder / "processor_config.json", image_seq_len=None)  # then the model's sizes say it
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    change_json(folder / "processor_config.json", image_processor=settings)
    assert captionkit.load(folder, threads=1).folder.chat.ids(2, 2) == expected


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("chat_template.json", {"chat_template": "{{ messages[0]['content'][1]['text'] }}"}, "no place for one image"),
        ("chat_template.json", {"chat_template": "{{ ''.__class__.__mro__ }}<image>"}, "cannot be used"),
        ("chat_template.json", {"chat_template": "{% if %}"}, "chat template cannot be used"),
        ("chat_template.json", {"chat_template": "{{ raise_exception('no') }}"}, r"cannot be used \(no\)"),
        ("chat_template.json", {"chat_template": None}, "has no chat template"),
        ("processor_config.json", {"image_seq_len": 5}, "tokens for an image of"),
        ("preprocessor_config.json", {"size": {"longest_edge": 640}}, "more than 6 x 6 tiles of 16 pixels"),
        ("preprocessor_config.json", {"max_image_size": {}}, "longest_edge of max_image_size is None"),
        ("processor_config.json", {"image_seq_len": 40}, "its prompt has 775 tokens, its decoder 512 positions; get"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    folder: Path, images: list[Any], name: str, values: dict[str, Any], match: str
) -> None:
    change_json(folder / name, **values)
    with pytest.raises(ModelError, match=match) as caught:
        captionkit.load(folder, threads=1).caption(images[15])
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.slow
def test_decoding_is_tuned_on_images_of_several_shapes(folder: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    beams = {"num_beams": (1, 2), "length_penalties": (1.0,), "no_repeat_ngram_sizes": (0,)}
    tuning = tune_model(str(folder), photos, **beams, write=True)
    assert [trial.decoding.num_beams for trial in tuning.trials] == [1, 2]
    found = evaluate_model(str(folder), photos, tmp_path / "found", split="val", resamples=0)
    assert found.scores["CIDEr-D"] == pytest.approx(tuning.best.scores["CIDEr-D"])


def test_without_graphs(folder: Path) -> None:
    shutil.rmtree(folder / "onnx")
    with pytest.raises(ModelError, match=r"a transformers model \(idefics3\) without ONNX graphs; name one"):
        captionkit.load(folder)
