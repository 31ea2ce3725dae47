"""Mirrored images with their words swapped, changed colours, and captions in turn."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("pydantic", reason="the extra `train` is not installed")

from PIL import Image

from captionkit.data.images import Preprocessing, load_image
from captionkit.data.layouts import CaptionSet, Example
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import RecipeError
from captionkit.training.data.augment import random_colour, random_crop
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.flip import check_mirroring, swap_words, swapped_captions
from captionkit.training.data.random_streams import round_robin
from shapes import make_recipe

SEEN = Preprocessing(height=8, width=8)
PAIR = ("left", "right")


def recipe_of(**changes: object):
    return make_recipe("mobilenet-v2", {name.replace("__", "."): value for name, value in changes.items()})


# --- words ---


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("a red half on the left", "a red half on the right"),
        ("left of the right dog", "right of the left dog"),
        ("Left, RIGHT and left-hand side", "right, left and right-hand side"),
        ("the leftover cake is bright", "the leftover cake is bright"),
        ("leftright left_right", "leftright left_right"),
        ("from left\u2019s to right.", "from right\u2019s to left."),
    ],
)
def test_words_are_swapped_where_they_stand_alone(caption: str, swapped: str) -> None:
    assert swap_words(caption, PAIR) == swapped
    assert swap_words(swap_words(swapped, PAIR), PAIR) == swapped


@pytest.mark.parametrize(
    ("pairs", "caption", "swapped"),
    [
        (("links", "rechts"), "ein Hund links, rechtsseitig", "ein Hund rechts, rechtsseitig"),
        (("à gauche", "à droite"), "un chien a\u0300 gauche", "un chien à droite"),  # an accent of its own
        (("左", "右"), "狗在左边", "狗在右边"),
        (("left", "right", "to the left", "to the east"), "left, to the left", "right, to the east"),
        (("left", "right", "port", "starboard"), "port is left", "starboard is right"),
    ],
)
def test_other_languages_and_more_pairs(pairs: tuple[str, ...], caption: str, swapped: str) -> None:
    assert swap_words(caption, pairs) == swapped


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image.flip": "false"}, r"image\.flip_swap = true: image\.flip is false.*set image\.flip too"),
        ({"image.flip_unless": "left,right,up"}, r"image\.flip_unless = 'left,right,up': .*pairs of words"),
        ({"image.flip_unless": ""}, r"image\.flip_unless = '': .*pairs of words"),
        ({"image.flip_unless": "left,right,Left,up"}, r"image\.flip_unless = .*each word in one pair alone"),
    ],
)
def test_what_cannot_be_swapped_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        check_mirroring(make_recipe("mobilenet-v2", {"image.flip": "true", "image.flip_swap": "true", **changes}).image)
    assert "\n" not in str(caught.value)


def test_a_word_that_the_vocabulary_lacks_is_not_swapped_in() -> None:
    text = Tokenizer.train(["a dog on the left", "left and right", "a left-hand turn"], min_frequency=1)
    image = recipe_of(image__flip="true", image__flip_swap="true").image
    assert swapped_captions(["a dog on the left"], text, image) == ["a dog on the right"]
    assert swapped_captions(["a left-hand turn"], text, image) is None  # "right-hand" would be <unk>
    assert swapped_captions(["a dog on the left", "a left-hand turn"], text, image) is None
    # what was unknown before is no reason, nor is what becomes known
    assert swapped_captions(["a purple dog left"], text, image) == ["a purple dog right"]
    assert swapped_captions(["a right-hand turn"], text, image) == ["a left-hand turn"]
    pieces = Tokenizer.train(["a left-hand turn"], kind="bpe", min_frequency=1, vocab_size=300)
    assert swapped_captions(["a left-hand turn"], pieces, image) == ["a right-hand turn"]


# --- images ---

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def halves(tmp_path: Path) -> tuple[CaptionSet, Tokenizer]:
    """Images with a red and a blue half, and what is where; of the last, a caption would lose a word."""
    examples = []
    for number, (left, right, names) in enumerate([(RED, BLUE, ("red", "blue")), (BLUE, RED, ("blue", "red"))] * 3):
        image = Image.new("RGB", (8, 8), left)
        image.paste(right, (4, 0, 8, 8))
        path = tmp_path / f"{number}.png"
        image.save(path)
        captions = (f"{names[0]} on the left", f"the {names[1]} half is right", f"two halves, {names[0]} left")
        if number == 4:
            captions = ("an image of two colours",)
        if number == 5:
            captions = (*captions, "a left-hand image")
        examples.append(Example(number, path, captions))
    told = [caption for example in examples for caption in example.captions]
    return CaptionSet("halves", "train", tuple(examples)), Tokenizer.train(told, min_frequency=1)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("few", [1, 5])
def test_a_mirrored_picture_is_told_of_mirrored(halves: tuple[CaptionSet, Tokenizer], cached: bool, few: int) -> None:
    pictures, text = halves
    recipe = recipe_of(image__flip="true", image__flip_swap="true", data__captions_per_image=few)
    views = [[load_image(e.image, SEEN, flip=flip) for flip in (False, True)] for e in pictures]
    features = np.array(views).reshape(len(pictures), 2, 3, 64) if cached else None
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True, features=features)
    seen: Counter = Counter()
    for turn in range(60):
        for index, example in enumerate(pictures):
            sample = train_set[turn, index]
            red, _, _ = (sample.image.reshape(3, 8, 8)[:, 4, 1] + 1) / 2
            on_the_left, on_the_right = ("red", "blue") if red > 0.5 else ("blue", "red")
            mirrored = not np.array_equal(sample.image.reshape(3, 8, 8), views[index][0])
            seen[index, mirrored] += 1
            told = [text.decode(ids) for ids in sample.captions]
            assert len(told) == min(few, len(example.captions))
            assert "<unk>" not in " ".join(told)
            for caption in told:
                if "left" in caption.split():
                    assert on_the_left in caption and on_the_right not in caption
                if "right" in caption.split():
                    assert on_the_right in caption and on_the_left not in caption
            lengths = [len(caption) - 1 for caption in sample.captions]
            assert train_set.totals([turn], [index]) == (sum(lengths), len(lengths))
    assert all(15 < seen[index, mirrored] < 45 for index in range(5) for mirrored in (False, True))
    assert seen[5, True] == 0  # "right-hand" is in no caption


def test_without_swapping_a_picture_with_such_words_is_as_it_was(halves: tuple[CaptionSet, Tokenizer]) -> None:
    pictures, text = halves
    train_set = CaptionDataset(pictures, text, recipe_of(image__flip="true"), SEEN, augment=True)
    assert [index for index in range(6) if train_set.flippable[index]] == [4] and not train_set.mirrored
    for changes in ({}, {"image__flip": "true", "image__flip_swap": "true"}):
        looked_at = CaptionDataset(pictures, text, recipe_of(**changes), SEEN, augment=False)
        told = [[text.decode(ids) for ids in looked_at[0, index].captions] for index in range(6)]
        assert told == [[text.decode(text.encode(caption)) for caption in example.captions] for example in pictures]


def test_a_mirrored_caption_is_counted_as_long_as_it_is_taught(tmp_path: Path) -> None:
    """Where the word that is put in has more tokens than the one it replaces."""
    text = Tokenizer.train(["a dog left", "a dog on the other side"], min_frequency=1)
    pictures = CaptionSet("p", "train", (Example(0, tmp_path / "none.png", ("a dog left",)),))
    words = "left,on the other side"
    recipe = recipe_of(image__flip="true", image__flip_swap="true", image__flip_unless=words, data__max_length=5)
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    found = {tuple(train_set[turn, 0].captions[0]): train_set.totals([turn], [0]) for turn in range(20)}
    assert found == {
        tuple(text.encode("a dog left")): (4, 1),
        tuple(text.encode("a dog on the other side")[:6]): (5, 1),
    }


def test_crops_are_those_of_inception() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop(generator, 0.08) for _ in range(4000)])
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-12
    left, top, right, bottom = boxes.T
    area, shape = (right - left) * (bottom - top), np.log((right - left) / (bottom - top))
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.31, 0.54, 0.77], atol=0.03)  # uniform
    narrow = shape[area < 0.7] / np.log(4 / 3)  # which fits whatever its shape
    np.testing.assert_allclose(np.quantile(narrow, [0.05, 0.25, 0.5, 0.75, 0.95]), [-0.9, -0.5, 0, 0.5, 0.9], atol=0.06)
    over = 1 - (right - left)
    placed = left[over > 0.01] / over[over > 0.01]  # uniform in what is left over
    np.testing.assert_allclose(np.quantile(placed, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)


def test_colours_change_by_at_most_the_strength_and_afresh_each_turn(tmp_path: Path) -> None:
    assert random_colour(np.random.default_rng(0), 0.0) is None
    factors = np.array([random_colour(np.random.default_rng(seed), 0.3) for seed in range(500)])
    assert factors.shape == (500, 3) and factors.min() >= 0.7 and factors.max() <= 1.3
    np.testing.assert_allclose(factors.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(np.quantile(factors, [0.1, 0.9], axis=0), [[0.76] * 3, [1.24] * 3], atol=0.03)
    assert abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.15

    Image.new("RGB", (8, 8), (150, 90, 40)).save(tmp_path / "brown.png")
    pictures = CaptionSet("p", "train", (Example(0, tmp_path / "brown.png", ("a brown square",)),))
    text = Tokenizer.train(["a brown square"], min_frequency=1)
    train_set = CaptionDataset(pictures, text, recipe_of(image__color_jitter=0.2), SEEN, augment=True)
    straight = load_image(tmp_path / "brown.png", SEEN)
    seen = [train_set[turn, 0].image for turn in range(20)]
    assert len({picture.tobytes() for picture in seen}) == 20
    assert all(np.array_equal(picture, train_set[turn, 0].image) for turn, picture in enumerate(seen))
    assert 0.05 < np.mean([abs(picture - straight).max() for picture in seen]) < 0.35
    plain = CaptionDataset(pictures, text, recipe_of(image__color_jitter=0.2), SEEN, augment=False)
    np.testing.assert_array_equal(plain[0, 0].image, straight)


# --- turns ---


@pytest.mark.parametrize(
    ("many", "some"), [(5, 1), (5, 2), (5, 5), (20, 5), (6, 4), (1, 1), (4, 6), (3, 9), (7, 3), (10, 25)]
)
def test_all_come_up_equally_often(many: int, some: int) -> None:
    counts: Counter = Counter()
    for turn in range(60):
        which, before = round_robin((1, 2), many, some, turn)
        assert len(which) == some and set(which) <= set(range(many))
        if some <= many:
            assert len(set(which)) == some
        for one, times in zip(which.tolist(), before.tolist(), strict=True):
            assert times == counts[one]  # so that no image is ever shown twice in the same turn
            counts[one] += 1
        assert max(counts.values()) - min(counts[one] for one in range(many)) <= 1


def test_turns_differ_by_key_and_round() -> None:
    orders = {key: [round_robin(key, 30, 10, turn)[0].tolist() for turn in range(6)] for key in ((0, 1), (0, 2))}
    assert orders[0, 1] != orders[0, 2]
    first, second = orders[0, 1][:3], orders[0, 1][3:]
    assert all(sorted(chain(*rounds)) == list(range(30)) for rounds in (first, second)) and first != second


def test_each_of_five_captions_is_taught_equally_often(tmp_path: Path) -> None:
    told = tuple(f"{'red ' * (n + 1)}circle" for n in range(5))
    text = Tokenizer.train(told, min_frequency=1)
    pictures = CaptionSet("p", "train", tuple(Example(n, tmp_path / f"{n}.png", told) for n in range(8)))
    train_set = CaptionDataset(pictures, text, recipe_of(data__captions_per_image=1), SEEN, augment=True)
    for index in range(8):
        for start in (0, 5, 10):
            planned = [train_set.plan_item(turn, index).captions for turn in range(start, start + 5)]
            assert sorted(len(caption) for (caption,) in planned) == [4, 5, 6, 7, 8]
    orders = {tuple(len(train_set.plan_item(turn, index).captions[0]) for turn in range(5)) for index in range(8)}
    assert len(orders) > 4  # images do not go through them in step
