"""Captions as token ids: encoded once, without those that have no word."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from captionkit.data.layouts import CaptionSet, Example
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import TrainingError
from captionkit.training.data.encode import encode_captions, join_encoded


def split_of(*captions: tuple[str, ...], name: str = "one") -> CaptionSet:
    examples = tuple(Example(number, Path(f"{number}.jpg"), captions=some) for number, some in enumerate(captions))
    return CaptionSet(name, "train", examples)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a dog runs", "a cat sleeps"], min_frequency=1)


def test_captions_without_a_word_and_images_without_others_are_left_out(tokenizer: Tokenizer) -> None:
    split = split_of(("a dog", "..."), ("!",), ("a cat", "a dog"))
    found = encode_captions(split, tokenizer)
    assert [example.captions for example in found.captions] == [("a dog",), ("a cat", "a dog")]
    assert [example.id for example in found.captions] == [0, 2]
    assert found.tokens == [[tokenizer.encode(caption) for caption in example.captions] for example in found.captions]
    assert found.captions.examples[1] is split.examples[2]


def test_nothing_left_is_an_error_in_a_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(TrainingError, match=r"^one, split train: no image has a caption; nothing to learn from$"):
        encode_captions(split_of(("...",)), tokenizer)


def test_splits_are_joined_and_cut_with_their_tokens(tokenizer: Tokenizer) -> None:
    parts = [
        encode_captions(split_of(("a dog",)), tokenizer),
        encode_captions(split_of(("a cat",), name="two"), tokenizer),
    ]
    both = join_encoded(parts)
    assert both.captions.name == "one + two" and [e.captions for e in both.captions] == [("a dog",), ("a cat",)]
    last = both.subset([1])
    assert [e.captions for e in last.captions] == [("a cat",)] and last.tokens == [[tokenizer.encode("a cat")]]


def test_a_run_encodes_each_caption_once(data, backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from captionkit.training.data.dataset import CaptionDataset
    from captionkit.training.run_setup import prepare
    from shapes import make_recipe

    counted: list[str] = []
    original = Tokenizer.encode_batch

    def encode_batch(self: Tokenizer, captions: list[str]) -> list[list[int]]:
        counted.extend(captions)
        return original(self, captions)

    monkeypatch.setattr(Tokenizer, "encode_batch", encode_batch)
    recipe = make_recipe(backbone)
    made = prepare(recipe, data)
    for part, captions in (("train", made.train), ("val", made.val)):
        tokens = made.tokens[part]
        dataset = CaptionDataset(captions, made.tokenizer, recipe, made.preprocessing, augment=False, tokens=tokens)
        assert dataset.tokens == tokens
    assert sorted(counted) == sorted(c for part in (made.train, made.val) for e in part for c in e.captions)
