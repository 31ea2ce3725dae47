"""Published ONNX models run as they are, and say what transformers' `generate` says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

import captionkit  # noqa: E402
from bulk_stub import InlinePool, union  # noqa: E402
from captionkit.bulk.run import BulkSettings, caption_dataset  # noqa: E402
from captionkit.errors import CaptionkitError, ModelError  # noqa: E402
from captionkit.inference.load import Runtime  # noqa: E402
from pretrained_captioners import generate, images, network_of  # noqa: E402
from published import change_json, publish  # noqa: E402
from tiers import slow  # noqa: E402

MODELS = [
    ("vit-gpt2", "merged"),
    ("vit-gpt2", "pair"),
    ("vit-bart", "merged"),
    ("vit-bart", "pair"),
    ("florence2", "merged"),
    ("florence2", "pair"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders by kind and layout, made when they are first asked for, with the networks that they were made of."""
    made: dict[tuple[str, str], tuple[Path, Any]] = {}

    def folder(kind: str, layout: str = "merged") -> tuple[Path, Any]:
        if (kind, layout) not in made:
            network = network_of(kind)
            path = tmp_path_factory.mktemp(kind) / "published"
            made[kind, layout] = publish(network, path, layout=layout), network
        return made[kind, layout]

    return folder


@pytest.fixture
def vit_gpt2(folders: Any, tmp_path: Path) -> Path:
    """A copy of a published ViT-GPT2 that a test may change."""
    return Path(shutil.copytree(folders("vit-gpt2")[0], tmp_path / "vit-gpt2"))


@pytest.mark.parametrize(("kind", "layout"), [MODELS[0], *slow(*MODELS[1:])])
def test_captions_are_those_of_generate(folders: Any, kind: str, layout: str) -> None:
    path, network = folders(kind, layout)
    captioner, photos = captionkit.load(path, threads=1), images(20)
    pixels = torch.stack([torch.from_numpy(captioner.preprocessing(photo)) for photo in photos])
    for beams in (1, 3):
        expected = generate(network, pixels, num_beams=beams, max_new_tokens=12)
        settings = {"num_beams": beams, "max_length": 12}
        assert [list(caption.tokens) for caption in captioner.caption(photos, **settings)] == expected
        assert [list(captioner.caption(photo, **settings).tokens) for photo in photos[:3]] == expected[:3]
    assert len(set(map(tuple, expected))) > 10, "captions depend on the image"


def test_the_generation_config_is_obeyed(folders: Any, tmp_path: Path) -> None:
    path, network = folders("vit-bart")
    path = Path(shutil.copytree(path, tmp_path / "copy"))
    settings = {
        "num_beams": 3,
        "max_new_tokens": 9,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[38], [27, 17]],
        "forced_bos_token_id": 5,
        "min_new_tokens": 4,
    }
    change_json(path / "generation_config.json", **settings)
    captioner, photos = captionkit.load(path, threads=1), images(8)
    pixels = torch.stack([torch.from_numpy(captioner.preprocessing(photo)) for photo in photos])
    expected = [row[1:] for row in generate(network, pixels, **settings)]  # ours are without the forced token
    assert [list(caption.tokens) for caption in captioner.caption(photos)] == expected


def test_pixels_are_those_of_transformers() -> None:
    from captionkit.inference.published.image_processor import ImageProcessor

    transformers = pytest.importorskip("transformers")
    photo = images(1)[0].resize((61, 44))
    configs = [
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 30}, "resample": 2}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 20}, "crop_size": {"height": 32, "width": 24}}),
        ("DeiTImageProcessorPil", {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}),
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "do_normalize": False, "resample": 3}),
    ]
    for name, settings in configs:
        processor = getattr(transformers, name)(**settings)
        expected = processor(photo, return_tensors="np")["pixel_values"][0]
        config = json.loads(processor.to_json_string())
        found = ImageProcessor.from_config(config)(photo)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{name} {settings}")


def test_a_published_model_does_what_the_bundled_one_does(vit_gpt2: Path) -> None:
    captioner = captionkit.load(vit_gpt2)
    assert captioner.capabilities == {"constraints"}
    photo = images(1)[0]
    word = captioner.caption(photo, num_beams=3, force_words=["w9"], max_length=12)
    assert "w9" in word.text.split()
    assert "w17" not in captioner.caption(photo, bad_words=["w17"]).text.split()
    assert captioner.caption(photo, prefix="w5 w6").text.startswith("w5 w6")
    some = captioner.caption(photo, temperature=1, num_captions=3)
    assert len({some.text, *(one.text for one in some.alternatives)}) > 1
    assert word.attention.size == 0
    assert "attention" not in word.words[0].to_dict(maps=True)
    with pytest.raises(CaptionkitError, match="gives no attention maps"):
        captioner.check_attention()


def test_precisions(vit_gpt2: Path) -> None:
    for graph in list((vit_gpt2 / "onnx").iterdir()):
        graph.rename(graph.with_name(f"{graph.stem}_quantized.onnx"))
    assert captionkit.load(vit_gpt2).folder.graphs["encoder_model"] == "onnx/encoder_model_quantized.onnx"
    assert captionkit.load(vit_gpt2, precision="int8").caption(images(1)[0])
    with pytest.raises(ModelError, match=r"has no graphs of precision fp16; it has int8$"):
        captionkit.load(vit_gpt2, precision="fp16")
    with pytest.raises(CaptionkitError, match=r"precision 'fp8' is unknown; use auto, fp32, int8, fp16, q4"):
        captionkit.load(vit_gpt2, precision="fp8")


def test_what_is_wrong_is_said_in_a_line(vit_gpt2: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(CaptionkitError, match=match) as caught:
            captionkit.load(vit_gpt2)
        assert "\n" not in str(caught.value)

    merged = vit_gpt2 / "onnx" / "decoder_model_merged.onnx"
    graph = onnx.load(merged)
    graph.opset_import[0].version = 99
    onnx.save(graph, merged)
    fails(r"decoder_model_merged\.onnx: .*needs a newer ONNX Runtime than .*pip install -U onnxruntime")
    merged.write_bytes(b"not a graph")
    fails(r"decoder_model_merged\.onnx: ONNX Runtime cannot run it")
    merged.unlink()
    fails(r"lacks decoder_model_merged\.onnx; get the model again")
    shutil.rmtree(vit_gpt2 / "onnx")
    fails(r"a transformers model \(vision-encoder-decoder\) without ONNX graphs; run `captionkit import")
    change_json(vit_gpt2 / "config.json", model_type="llama")
    fails(r"a model of another kind \(llama\)")
    with pytest.raises(CaptionkitError, match="has one style of captions"):
        captionkit.load(style="short")


@pytest.mark.slow
def test_florence_has_styles(folders: Any) -> None:
    path, _ = folders("florence2")
    photo = images(1)[0]
    assert "prompt" in captionkit.load(path).capabilities
    captions = {captionkit.load(path, style=style).caption(photo).score for style in ("short", "detailed", "long")}
    assert len(captions) > 1
    with pytest.raises(CaptionkitError, match="positions for 60 tokens; lower max_length"):
        captionkit.load(path).caption(photo, max_length=100, min_length=90)
    with pytest.raises(CaptionkitError, match="style 'epic' is unknown; use short, detailed, long"):
        captionkit.load(path, style="epic")


def test_byte_pairs_spell_words() -> None:
    import tokenizers

    from captionkit.data.pretrained_tokenizer import PretrainedTokenizer
    from captionkit.data.special_tokens import SpecialTokens

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["a man with a dog and a café"] * 5, trainer)
    tokenizer = PretrainedTokenizer(backend, SpecialTokens((0,), 0))
    ids = backend.encode("a dog in a café, 犬").ids
    assert tokenizer.decode([0, *ids, 0]) == "a dog in a café, 犬"
    assert [word for word, _ in tokenizer.words(ids)] == ["a", "dog", "in", "a", "café,", "犬"]
    assert sorted(place for _, places in tokenizer.words(ids) for place in places) == list(range(len(ids)))
    assert tokenizer.encode_phrase("dog", first=False) == (backend.encode(" dog").ids, [])
    assert tokenizer.encode_phrase(" dog ", first=True) == (backend.encode("dog").ids, [])


def test_what_is_fitted_lies_beside_the_folder(vit_gpt2: Path) -> None:
    folder = captionkit.load(vit_gpt2).folder
    before = sorted(vit_gpt2.rglob("*"))
    stored = folder.store({"calibration": {"slope": 2.0}, "decoding": folder.decoding.to_dict() | {"num_beams": 2}})
    assert stored == vit_gpt2.with_name("vit-gpt2.captionkit.json")
    assert sorted(vit_gpt2.rglob("*")) == before
    again = captionkit.load(vit_gpt2)
    assert again.decoding.num_beams == 2
    assert again.folder.calibration.slope == 2.0
    stored.write_text('{"mine": 1}')
    with pytest.raises(ModelError, match="was not written by captionkit; move it away"):
        captionkit.load(vit_gpt2).folder.store({})
    assert stored.read_text() == '{"mine": 1}'


def test_only_the_files_needed_are_fetched(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from captionkit.inference.published import hub

    path, _ = folders("vit-gpt2")
    asked: list[list[str]] = []
    graphs = [
        f"onnx/{name}{suffix}.onnx" for name in ("encoder_model", "decoder_model_merged") for suffix in ("", "_int8")
    ]

    class Api:
        def list_repo_files(self, repo: str, revision: str | None) -> list[str]:
            assert (repo, revision) == ("someone/model", "v1")
            return ["model.safetensors", "pytorch_model.bin", *graphs, "onnx/encoder_model_int8.onnx_data"]

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.fetch("someone/model@v1", "int8") == path
    wanted = {
        "onnx/encoder_model_int8.onnx",
        "onnx/decoder_model_merged_int8.onnx",
        "onnx/encoder_model_int8.onnx_data",
    }
    assert asked[0] == ["config.json"]
    assert {name for name in asked[1] if not name.endswith(".json")} == wanted
    with pytest.raises(ModelError, match="someone/model@v1: has no graphs of precision q4; it has fp32, int8"):
        hub.fetch("someone/model@v1", "q4")

    def fail(*_: object, **__: object) -> str:
        raise RevisionNotFoundError("404\nlong")

    class RevisionNotFoundError(Exception):
        pass

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"^someone/model has no revision 'v9' on the Hub; name another$"):
        captionkit.load("someone/model@v9")


def test_bulk_captions_with_one_in_the_style_asked_for(folders: Any, tmp_path: Path) -> None:
    path, _ = folders("florence2")
    (tmp_path / "images").mkdir()
    photos = images(3)
    for number, photo in enumerate(photos):
        photo.save(tmp_path / "images" / f"{number}.png")

    def run(style: str) -> list[str]:
        asked = BulkSettings(
            model=str(path), engine=InlinePool, decoding={"max_length": 12}, runtime=Runtime(style=style)
        )
        caption_dataset(str(tmp_path / "images"), str(tmp_path / "output"), asked)
        return [json.loads(line)["captions"][0]["text"] for line in union(tmp_path / "output")]

    captioner = captionkit.load(path, threads=1, style="detailed")
    assert run("detailed") == [caption.text for caption in captioner.caption(photos, max_length=12)]
    with pytest.raises(CaptionkitError, match="was begun with model"):
        run("short")
