"""Captioner: pictures in any form to captions, the same from torch and from ONNX Runtime."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.captioner import Captioner
from captionkit.errors import CaptionkitError, ImageError, ModelError


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
        assert c.text == captioner.text.decode(c.tokens) == str(c)
        assert 0 < c.confidence < 1
        assert c.log_prob < 0
        spoken = np.prod([word.confidence for word in c.words])
        assert spoken >= np.exp(c.log_prob) * 0.999, "the sentence is no likelier than its words"
        assert [w["text"] for w in c.to_dict()["words"]] == [w.text for w in c.words]


def test_batches_do_not_change_captions(captioner: Captioner, paths: list[str]) -> None:
    alone = [captioner.caption(path) for path in paths]
    for batch in (1, 2, 16):
        together = [outcome.caption for outcome in captioner.stream(paths, batch=batch)]
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
        captioner.caption(paths[0], beam=1, num_captions=2)


def test_times_are_told(captioner: Captioner, paths: list[str]) -> None:
    (outcome,) = captioner.stream(paths[:1])
    assert set(outcome.ms) == {"open", "encode", "decode"}
    assert all(value > 0 for value in outcome.ms.values())


def test_torch_and_onnx_say_the_same(captioner: Captioner, paths: list[str]) -> None:
    from captionkit.models.stepper import TorchStepper
    from captionkit.models.stored import load_model

    other = Captioner(captioner.folder, TorchStepper(load_model(captioner.folder)))
    for ours, theirs in zip(
        captioner.caption(paths, num_captions=3), other.caption(paths, num_captions=3), strict=True
    ):
        for a, b in zip([ours, *ours.alternatives], [theirs, *theirs.alternatives], strict=True):
            assert a.tokens == b.tokens
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
            np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)


def test_graph_that_is_none_is_named(model_folder: Path, tmp_path: Path) -> None:
    from captionkit.bundle import DECODER, open_model, update_model

    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    update_model(open_model(folder), {DECODER: b"not a graph"})
    with pytest.raises(ModelError, match=r"decoder\.onnx: ONNX Runtime cannot run it"):
        captionkit.load(folder)


def test_folder_without_graphs_names_the_command(untrained: Path) -> None:
    with pytest.raises(ModelError, match="captionkit export"):
        captionkit.load(untrained)
