"""CLIPScore and RefCLIPScore: by hand from a tiny CLIP; pixels against Pillow and transformers; what is refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")

import torch
from transformers import CLIPModel, CLIPTokenizer

from captionkit.errors import CaptionkitError, ImageError, ModelError
from captionkit.inference.published.clip import OnnxClipScore, has_clip_graphs
from captionkit.models.clip_score import ClipScore
from tiny_clip import END, LENGTH, MEAN, SIDE, START, STD, VOCABULARY, published_clip, tiny_clip

CANDIDATES = ["a dog", "Two red cats", "snow", "zz", "men on bikes", "a   Dog"]
REFERENCES = [["a dog", "the hound"], ["cats"], ["white", "cold day", "snow"], ["q", "w"], ["bike race"], ["a cat"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(5)
    pictures = []
    for width, height in ((40, 60), (90, 64), (32, 32), (20, 21), (100, 33), (48, 47)):
        coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return pictures


def pixels(image: Image.Image) -> torch.Tensor:
    """[3,SIDE,SIDE], resized whole and then cut with Pillow."""
    shorter = min(image.size)
    width, height = (SIDE if length == shorter else int(SIDE * length / shorter) for length in image.size)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    cut = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    return torch.tensor((np.asarray(cut) / 255 - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)


def tokens(caption: str) -> list[int]:
    """Letters of the prompted caption; those at the end of a word are other tokens."""
    words = f"A photo depicts {caption}".lower().split()
    spelled = [VOCABULARY[letter + "</w>" * (n == len(word) - 1)] for word in words for n, letter in enumerate(word)]
    return [START, *spelled[: LENGTH - 2], END]


@torch.no_grad()
def by_hand(folder: Path, candidates, references, images) -> np.ndarray:
    """Scores [N,2], one text and one image at a time."""
    model = CLIPModel.from_pretrained(folder)

    def text(caption: str) -> np.ndarray:
        vector = model.get_text_features(torch.tensor([tokens(caption)])).pooler_output[0].double().numpy()
        return vector / np.linalg.norm(vector)

    scores = []
    for candidate, some, image in zip(candidates, references, images, strict=True):
        seen = model.get_image_features(pixels(image)[None]).pooler_output[0].double().numpy()
        clip = 2.5 * max(text(candidate) @ seen / np.linalg.norm(seen), 0)
        nearest = max(max(text(candidate) @ text(reference) for reference in some), 0)
        scores.append((clip, 2 / (1 / clip + 1 / nearest) if clip and nearest else 0))
    return np.array(scores)


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_scores_by_hand(folder: Path, images: list[Image.Image], batch: int) -> None:
    expected = by_hand(folder, CANDIDATES, REFERENCES, images)
    assert (expected[:, 0] == 0).any() and (expected[:, 0] > 0.1).sum() > 2  # both sides of the clip at 0
    metric = ClipScore(str(folder), device="cpu", batch=batch)
    metric.update(CANDIDATES[:5], REFERENCES[:5], images[:5])
    metric.update(CANDIDATES[5:], REFERENCES[5:], images[5:])
    result = metric.compute()
    assert result.names == ("CLIPScore", "RefCLIPScore") and metric.needs_images
    np.testing.assert_allclose(result.per_image, expected, atol=2e-5)
    np.testing.assert_allclose(list(result.values.values()), expected.mean(0), atol=2e-5)


def test_a_candidate_among_its_references(folder: Path, images: list[Image.Image]) -> None:
    metric = ClipScore(str(folder), device="cpu")
    texts = ["a dog", "snow", "men on bikes"]
    for text in texts:
        metric.update([text] * 6, [["something else", text]] * 6, images)
    clip, harmonic = metric.compute().per_image.T
    assert clip.min() == 0 < clip.max()
    np.testing.assert_allclose(harmonic, 2 * clip / (clip + 1), atol=1e-5)


def test_the_prompt_and_the_weight_count(folder: Path, images: list[Image.Image], monkeypatch) -> None:
    def score() -> np.ndarray:
        metric = ClipScore(str(folder), device="cpu")
        metric.update(CANDIDATES, REFERENCES, images)
        return metric.compute().per_image

    usual = score()
    monkeypatch.setattr("captionkit.metrics.clip_score.WEIGHT", 5.0)
    np.testing.assert_allclose(score()[:, 0], 2 * usual[:, 0])
    monkeypatch.setattr("captionkit.metrics.clip_score.PROMPT", "")
    assert np.abs(score()[:, 0] - 2 * usual[:, 0]).max() > 0.05


def test_opposite_texts_score_zero(folder: Path, images: list[Image.Image], monkeypatch) -> None:
    metric = ClipScore(str(folder), device="cpu")
    vectors = {"up": [1.0, 0.0], "down": [-1.0, 0.0], "aside": [0.0, 1.0]}
    monkeypatch.setattr(metric, "_embed_texts", lambda texts: np.array([vectors[text] for text in texts]))
    monkeypatch.setattr(metric, "_embed_images", lambda images: np.array([[0.8, 0.6], [-0.8, 0.6]][: len(images)]))
    metric.update(["up", "up"], [["down", "aside"], ["down"]], images[:2])
    metric.update(["aside"], [["aside", "up"]], images[:1])
    expected = [[2.0, 0.0], [0.0, 0.0], [1.5, 2 * 1.5 / 2.5]]
    np.testing.assert_allclose(metric.compute().per_image, expected, atol=1e-12)


def test_long_captions_are_cut(folder: Path, images: list[Image.Image]) -> None:
    long = "wxyz " * 40
    metric = ClipScore(str(folder), device="cpu")
    metric.update([long, long + "and more"], [[long + "or less"], ["short"]], [images[0]] * 2)
    expected = by_hand(folder, [long] * 2, [[long], ["short"]], [images[0]] * 2)
    np.testing.assert_allclose(metric.compute().per_image, expected, atol=2e-5)


def test_no_images_yet(folder: Path) -> None:
    metric = ClipScore(str(folder), device="cpu")
    metric.update([], [], [])
    assert metric.compute().per_image.shape == (0, 2)


@pytest.mark.parametrize(
    ("size", "levels"),
    [((33, 50), 1), ((51, 32), 1), ((150, 113), 1), ((187, 125), 1), ((9, 800), 1), ((5, 4), 1), ((640, 427), 6)],
)
def test_pixels(folder: Path, size: tuple[int, int], levels: int) -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (size[1] // 2 + 1, size[0] // 2 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    seen = ClipScore(str(folder), device="cpu")._preprocess(image)
    # A value may be rounded to the next of 255 levels; above a six-fold reduction Pillow takes a short cut.
    apart = np.abs(seen - pixels(image).numpy()) * np.reshape(STD, (3, 1, 1)) * 255
    assert apart.max() < levels + 0.01
    assert levels > 1 or (apart > 0.01).mean() < 0.002
    assert seen.dtype == np.float32 and seen.shape == (3, SIDE, SIDE)


# Where an odd number of pixels is cut off, transformers may cut the other one of the two in the middle.
@pytest.mark.parametrize("size", [(40, 60), (99, 66), (48, 64), (160, 96)])
def test_pixels_are_those_of_transformers(folder: Path, size: tuple[int, int]) -> None:
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:
        pytest.skip("this transformers has no image processor on Pillow")
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    expected = processor(Image.fromarray(noise), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ClipScore(str(folder), device="cpu")._preprocess(noise), expected, atol=1e-5)


def test_kinds_of_picture_score_alike(folder: Path, images: list[Image.Image], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    images[0].save(buffer, "png")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    metric = ClipScore(str(folder), device="cpu")
    metric.update(["a dog"] * 4, [["a dog"]] * 4, [images[0], np.asarray(images[0]), buffer.getvalue(), str(path)])
    scores = metric.compute().per_image
    np.testing.assert_allclose(scores, scores[:1].repeat(4, 0), atol=1e-6)


def test_the_mean_and_deviation_of_the_model(folder: Path, images: list[Image.Image], tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (other / "preprocessor_config.json").write_text(json.dumps(settings))
    usual, changed = (ClipScore(str(path), device="cpu")._preprocess(images[0]) for path in (folder, other))
    axes = (3, 1, 1)
    colours = usual * np.reshape(STD, axes) + np.reshape(MEAN, axes)
    expected = (colours - np.reshape([0.5, 0.4, 0.3], axes)) / np.reshape([0.2, 0.3, 0.4], axes)
    np.testing.assert_allclose(changed, expected, atol=1e-5)
    (other / "preprocessor_config.json").unlink()  # then CLIP's own
    np.testing.assert_array_equal(ClipScore(str(other), device="cpu")._preprocess(images[0]), usual)


def test_a_bad_picture_is_named_and_nothing_kept(folder: Path, images: list[Image.Image], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not an image")
    metric = ClipScore(str(folder), device="cpu", batch=1)
    metric.update(CANDIDATES[:1], REFERENCES[:1], images[:1])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        metric.update(CANDIDATES[:3], REFERENCES[:3], [*images[:2], broken])
    assert len(metric.compute().per_image) == 1


def test_an_image_without_references(folder: Path, images: list[Image.Image]) -> None:
    metric = ClipScore(str(folder), device="cpu")
    metric.update(CANDIDATES[:2], REFERENCES[:2], images[:2])
    with pytest.raises(CaptionkitError, match=r"image 3 \(image\) has no references; .* leave the image out"):
        metric.update(CANDIDATES[:2], [["a dog"], []], images[:2])
    with pytest.raises(ValueError):
        metric.update(CANDIDATES[:2], REFERENCES[:2], images[:1])
    assert len(metric.compute().per_image) == 2


def refusal(model: Path | str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        ClipScore(str(model), **options)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500
    return said


def test_no_such_model(tmp_path: Path) -> None:
    said = refusal(tmp_path / "absent")
    assert said.startswith(f"{tmp_path / 'absent'}: cannot load") and "name the Hub id" in said


def test_another_kind_of_model(backbone: Path) -> None:
    said = refusal(backbone)
    assert "'resnet'" in said and "name the Hub id" in said


def test_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other", ignore=lambda _, names: [n for n in names if "token" in n])
    assert "has no tokenizer; name" in refusal(other)


def test_the_tokenizer_of_another_model(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    CLIPTokenizer(vocab={**VOCABULARY, "dog</w>": len(VOCABULARY)}, merges=[]).save_pretrained(other)
    assert f"tokenizer of {len(VOCABULARY) + 1} tokens" in refusal(other)


def test_an_end_that_the_text_encoder_does_not_know(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["eos_token_id"] = START + 5000
    (other / "config.json").write_text(json.dumps(config))
    assert f"ends captions with token {END}" in refusal(other)
    config["text_config"]["eos_token_id"] = 2  # OpenAI's own: the highest id is taken for the end
    (other / "config.json").write_text(json.dumps(config))
    image = Image.new("RGB", (40, 40), "red")
    scores = []
    for path in (folder, other):
        metric = ClipScore(str(path), device="cpu")
        metric.update(["a dog"], [["snow"]], [image])
        scores.append(metric.compute().per_image)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_pickled_weights_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), other / "pytorch_model.bin")
    assert "cannot load this CLIP model" in refusal(other)


def test_missing_weights(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(folder, tmp_path / "other")
    kept = load_file(other / "model.safetensors")
    del kept["text_projection.weight"]
    save_file(kept, other / "model.safetensors", metadata={"format": "pt"})
    assert "no weights for text_projection.weight (1 missing)" in refusal(other)


def test_options(folder: Path) -> None:
    assert "device 'no-such' cannot be used" in refusal(folder, device="no-such")
    if not torch.cuda.is_available():
        assert "device 'cuda' cannot be used" in refusal(folder, device="cuda")
    with pytest.raises(ValueError, match="batch"):
        ClipScore(str(folder), batch=0)


# ---- ONNX graphs, as others publish them


@pytest.fixture(scope="module")
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same CLIP without its weights, in two graphs and in one."""
    pytest.importorskip("onnx", reason="the extra `train` is not installed")
    return published_clip(folder, tmp_path_factory.mktemp("published"))


@pytest.mark.slow
def test_graphs_score_as_torch_does(folder: Path, published: dict[str, Path], images: list[Image.Image]) -> None:
    wanted = ClipScore(str(folder), device="cpu")
    candidates, references = [*CANDIDATES[:5], "wxyz " * 40], REFERENCES
    wanted.update(candidates, references, images)
    for place in published.values():
        for batch in (1, 32):
            found = OnnxClipScore(str(place), batch=batch, threads=1)
            found.update(candidates, references, images)
            np.testing.assert_allclose(found.compute().per_image, wanted.compute().per_image, atol=1e-5)
        assert has_clip_graphs(str(place)) and not has_clip_graphs(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
        {"resample": 2},
    ],
)
def test_graphs_see_the_pixels_that_torch_sees(
    folder: Path, published: dict[str, Path], images: list[Image.Image], tmp_path: Path, changed: dict[str, object]
) -> None:
    seen = []
    for kind, place in ((ClipScore, folder), (OnnxClipScore, published["two"])):
        other = shutil.copytree(place, tmp_path / kind.__name__)
        settings = json.loads((other / "preprocessor_config.json").read_text())
        (other / "preprocessor_config.json").write_text(json.dumps(settings | changed))
        metric = kind(str(other), device="cpu")
        seen.append(metric._preprocessing)
    for field in ("mean", "std"):
        assert getattr(seen[1], field) == pytest.approx(getattr(seen[0], field))
    assert seen[1].interpolation == seen[0].interpolation and seen[1].height == seen[0].height


@pytest.mark.slow
def test_folders_of_graphs_that_cannot_be_used(published: dict[str, Path], tmp_path: Path) -> None:
    def refused(place: Path | str, **options: object) -> str:
        with pytest.raises(CaptionkitError) as caught:
            OnnxClipScore(str(place), **options)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        return str(caught.value)

    other = shutil.copytree(published["two"], tmp_path / "other")
    assert "has no graphs of precision int8; it has fp32" in refused(other, precision="int8")
    (other / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused(other)
    (other / "config.json").write_text('{"model_type": "vit"}')
    assert "a model of the kind 'vit', not 'clip'" in refused(other)
    broken = shutil.copytree(published["two"], tmp_path / "broken")
    (broken / "onnx" / "text_model.onnx").write_bytes(b"?")
    assert "ONNX Runtime cannot run it" in refused(broken)
    shutil.rmtree(broken / "onnx")
    assert "lacks text_model.onnx" in refused(broken)
    assert "absent" in refused(tmp_path / "absent")


_ASK = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from captionkit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_command_line_takes_graphs_without_torch(
    published: dict[str, Path], images: list[Image.Image], tmp_path: Path
) -> None:
    rows, folder = [], tmp_path / "data"
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        rows += [f"{number}.png,{caption}" for caption in REFERENCES[number]]
    (folder / "captions.csv").write_text("image,caption\n" + "\n".join(rows))
    output = tmp_path / "scores"
    asked = ["evaluate", "bundled", str(folder), "--split", "all", "--metrics", "rouge"]
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *asked, "--clip", published["two"], "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((output / "scores.json").read_text())
    said = [row["caption"] for row in json.loads((output / "results.json").read_text())]
    metric = OnnxClipScore(str(published["two"]))
    metric.update(said, REFERENCES, images)
    for name, value in metric.compute().values.items():
        assert scores[name] == pytest.approx(value, abs=1e-3)
