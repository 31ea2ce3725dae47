"""Captioner: images in any form to captions, the same from torch and from ONNX Runtime."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.errors import CaptionkitError, ImageError, ModelError
from captionkit.inference.captioner import Captioner


@pytest.fixture(scope="module")
def captioner(model_folder: Path) -> Captioner:
    return captionkit.load(model_folder)


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[str]:
    return sorted(str(path) for path in photos.iterdir())


def test_every_kind_of_source_says_the_same(captioner: Captioner, photos: Path) -> None:
    path = photos / "two.png"
    image = Image.open(path).convert("RGB")
    said = [captioner.caption(s).text for s in (str(path), path, path.read_bytes(), image, np.asarray(image))]
    assert said[0]
    assert len(set(said)) == 1


def test_caption_is_consistent(captioner: Captioner, photos: Path) -> None:
    caption = captioner.caption(photos / "one.jpg", num_captions=3)
    everything = [caption, *caption.alternatives]
    assert len({c.text for c in everything}) == 3
    assert [c.score for c in everything] == sorted((c.score for c in everything), reverse=True)
    for c in everything:
        assert "<unk>" not in c.text
        assert c.attention.shape == (len(c.tokens), 2, 3), "64 x 96 pixels at stride 32"
        np.testing.assert_allclose(c.attention.sum((1, 2)), 1, atol=1e-4)
        assert c.text == captioner.tokenizer.decode(c.tokens) == str(c)
        assert 0 < c.confidence < 1
        assert c.log_prob < 0
        assert c.confidence == pytest.approx(np.mean([word.confidence for word in c.words]))
        assert [w.confidence for w in c.words] == pytest.approx([np.exp(w.log_prob) for w in c.words], abs=1e-5)
        words_alone = np.exp(sum(word.log_prob for word in c.words))
        assert words_alone >= np.exp(c.log_prob) * 0.999, "the sentence is no likelier than its words"
        assert [w["text"] for w in c.to_dict()["words"]] == [w.text for w in c.words]


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_none_is_refused(captioner: Captioner, paths: list[str], batch: int) -> None:
    with pytest.raises(CaptionkitError, match=f"batch_size is {batch}"):
        list(captioner.stream(paths, batch_size=batch))


def test_more_hypotheses_than_memory_is_for_are_refused(captioner: Captioner, paths: list[str]) -> None:
    with pytest.raises(CaptionkitError, match=r"2 words with a beam of 500 take 1,500 hypotheses"):
        captioner.caption(paths[0], num_beams=500, force_words=("dog", "grass"))


@pytest.mark.parametrize("grid", [None, "x", [3], [3, 3]])
def test_a_damaged_grid_is_named(model_folder: Path, paths: list[str], tmp_path: Path, grid: object) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["grid"] = grid
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="grid"):
        captionkit.load(folder).caption(paths[0])


def test_batches_do_not_change_captions(captioner: Captioner, paths: list[str]) -> None:
    alone = [captioner.caption(path) for path in paths]
    for batch in (1, 2, 16):
        together = [outcome.caption for outcome in captioner.stream(paths, batch_size=batch)]
        assert [c.tokens for c in together if c] == [c.tokens for c in alone]
    assert [c.text for c in captioner.caption(paths)] == [c.text for c in alone]
    assert captioner.caption([]) == []


def test_a_bad_picture_does_not_stop_the_rest(captioner: Captioner, paths: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 not really")
    outcomes = list(captioner.stream([paths[0], bad, paths[1]]))
    assert [outcome.caption is None for outcome in outcomes] == [False, True, False]
    assert "bad.jpg" in outcomes[1].error
    assert [outcome.source for outcome in outcomes] == [paths[0], bad, paths[1]]
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        captioner.caption([paths[0], bad])


def test_threads_share_a_captioner(captioner: Captioner, paths: list[str]) -> None:
    expected = [captioner.caption(path).text for path in paths]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: captioner.caption(path).text, paths * 8))
    assert found == expected * 8


def test_decoding_options_reach_the_search(captioner: Captioner, paths: list[str]) -> None:
    assert len(captioner.caption(paths[0], max_length=2).tokens) <= 2
    assert len(captioner.caption(paths[0], min_length=6).tokens) >= 6
    with pytest.raises(CaptionkitError, match="num_captions"):
        captioner.caption(paths[0], num_beams=1, num_captions=2)


def test_times_are_told(captioner: Captioner, paths: list[str]) -> None:
    (outcome,) = captioner.stream(paths[:1])
    assert set(outcome.ms) == {"open", "encode", "decode"}
    assert all(value > 0 for value in outcome.ms.values())


MODES = {
    "search": {"num_captions": 3},
    "groups": {"num_beams": 6, "num_beam_groups": 3, "num_captions": 3},
    "samples": {"temperature": 1, "num_captions": 5, "seed": 7},
    "nucleus": {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "num_captions": 3},
    "prefix": {"prefix": "a red", "num_captions": 2},
    "ban": {"bad_words": ["dog", "a red", "grass"], "no_repeat_ngram_size": 2, "num_captions": 3},
    "words": {"force_words": ["boat", "red boat", "cats"], "num_captions": 2},
    "everything": {
        "num_beams": 4,
        "num_beam_groups": 2,
        "prefix": "two",
        "force_words": ["sleep"],
        "bad_words": ["a"],
        "no_repeat_ngram_size": 1,
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_torch_and_onnx_say_the_same(captioner: Captioner, paths: list[str], mode: str) -> None:
    from captionkit.models.serialization import load_model
    from captionkit.models.torch_stepper import TorchStepper

    other, settings = Captioner(captioner.folder, TorchStepper(load_model(captioner.folder))), MODES[mode]
    for ours, theirs in zip(captioner.caption(paths, **settings), other.caption(paths, **settings), strict=True):
        assert len(ours.alternatives) == len(theirs.alternatives) == settings.get("num_captions", 1) - 1
        for a, b in zip([ours, *ours.alternatives], [theirs, *theirs.alternatives], strict=True):
            assert a.tokens == b.tokens
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
            np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)


def test_graph_that_is_none_is_named(model_folder: Path, tmp_path: Path) -> None:
    from captionkit.inference.model_folder import DECODER, open_model, update_model

    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    update_model(open_model(folder), {DECODER: b"not a graph"})
    with pytest.raises(ModelError, match=r"decoder\.onnx: ONNX Runtime cannot run it"):
        captionkit.load(folder)


def test_folder_without_graphs_names_the_command(untrained: Path) -> None:
    with pytest.raises(ModelError, match="captionkit export"):
        captionkit.load(untrained)


def test_what_captions_must_say_and_must_not(captioner: Captioner, paths: list[str]) -> None:
    for caption in captioner.caption(paths, num_captions=3):
        for c in (caption, *caption.alternatives):
            assert "<unk>" not in c.text
    for caption in captioner.caption(paths, prefix="A  red", num_captions=2):
        for c in (caption, *caption.alternatives):
            assert c.text.startswith("a red")
            assert c.attention.shape[0] == len(c.tokens) >= 2
            assert [word.text for word in c.words[:2]] == ["a", "red"]
            assert sum(word.log_prob for word in c.words) >= c.log_prob - 1e-4, "the prefix is counted"
    banned = ["dog", "the sea", "red boat", "zebra", ""]
    free = {c.text for caption in captioner.caption(paths, num_captions=3) for c in (caption, *caption.alternatives)}
    ban = sorted({word for text in free for word in text.split()})[:2]
    for caption in captioner.caption(paths, bad_words=[*banned, *ban], num_captions=3):
        for c in (caption, *caption.alternatives):
            assert not {"dog", *ban} & set(c.text.split())
            assert "the sea" not in c.text
            assert "red boat" not in c.text
    for caption in captioner.caption(paths, force_words=["Sea", "two cats"], max_length=12):
        assert re.search(r"\bsea\b", caption.text), "also as the owner of something"
        assert "two cats" in caption.text


def test_batches_do_not_change_samples(captioner: Captioner, paths: list[str]) -> None:
    sampling = {"temperature": 1.0, "num_captions": 4, "seed": 3}
    everything = {path: captioner.caption(path, **sampling) for path in paths}
    assert len({caption.tokens for caption in everything.values()}) > 1
    for batch in (1, 2, 16):
        for order in (paths, paths[::-1], paths[1:] * 2):
            for path, outcome in zip(order, captioner.stream(order, batch_size=batch, **sampling), strict=True):
                alone, found = everything[path], outcome.caption
                assert found
                assert [c.tokens for c in (found, *found.alternatives)] == [
                    c.tokens for c in (alone, *alone.alternatives)
                ]


def test_pictures_that_are_done_leave_the_batch(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (40, 60, 3), dtype=np.uint8) for _ in range(12)]
    settings = {"temperature": 2.0, "max_length": 30}
    alone = [captioner.caption(picture, **settings) for picture in pictures]
    keep, left = captioner.stepper.keep, []
    monkeypatch.setattr(captioner.stepper, "keep", lambda state, rows: left.append(len(rows)) or keep(state, rows))
    together = captioner.caption(pictures, **settings)
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)
    assert len(left) > 2
    assert left == sorted(left, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"force_words": ["xylophone"]}, "force_words: the model's vocabulary lacks 'xylophone'; use words that"),
        ({"prefix": "A Unicorn and a qilin"}, "prefix: the model's vocabulary lacks 'Unicorn', 'and', 'qilin'; use"),
        ({"force_words": ["..."]}, "force_words: '...' has no words; leave it out"),
        ({"force_words": ["red boat"], "bad_words": ["boat"]}, "'red boat' must be said, but 'boat' is banned"),
        ({"prefix": "a red boat", "bad_words": ["a red"]}, "'a red boat' must be said, but 'a red' is banned"),
        ({"prefix": "a red boat", "max_length": 2}, "prefix has 3 tokens, but max_length is 2; raise max_length"),
        (
            {"force_words": ["two cats sleep"], "max_length": 2},
            "no caption of at most 2 words contains 'two cats sleep'",
        ),
        ({"force_words": ["<unk>"]}, "force_words: the model's vocabulary lacks 'unk'"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(
    captioner: Captioner, paths: list[str], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(CaptionkitError) as error:
        captioner.caption(paths[0], **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_phrases_of_byte_level_tokens() -> None:
    from captionkit.data.tokenizer import Tokenizer
    from captionkit.inference.search import Decoding
    from captionkit.inference.word_constraints import constraints_of

    text = Tokenizer.train(["a dog runs", "two dogs"], kind="bpe", vocab_size=270, min_frequency=2)
    decoding = Decoding(prefix="a dog", force_words=("Dog", "zèbre"), bad_words=("runs",))
    constraints = constraints_of(decoding, text)
    assert text.decode(constraints.prefix) == "a dog"
    assert [text.decode(phrase) for phrase in constraints.words] == ["dog", "zèbre"]
    assert [text.decode(phrase) for phrase in constraints.banned] == ["runs"]
    assert len(constraints.words[1]) > 4, "a word that was not learnt is spelled"


def test_pretrained_models_are_loaded_saved_and_pushed(
    model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.from_pretrained(model_folder)
    saved = captioner.save_pretrained(tmp_path / "copy")
    (saved / "notes.txt").write_text("mine")
    assert captioner.save_pretrained(saved) == saved
    again = Captioner.from_pretrained(saved)
    assert again.caption(photos / "one.jpg").text == captioner.caption(photos / "one.jpg").text
    assert (saved / "notes.txt").read_text() == "mine"
    assert again.folder.config == captioner.folder.config
    with pytest.raises(CaptionkitError):
        captioner.save_pretrained(captioner.folder.path)
    (saved / "config.json").write_text("mine too")
    with pytest.raises(CaptionkitError):
        captioner.save_pretrained(saved)
    monkeypatch.setattr("captionkit.inference.captioner.push_model", lambda folder, repo: f"{folder.path} {repo}")
    assert captioner.push_to_hub("me/mine") == f"{captioner.folder.path} me/mine"
