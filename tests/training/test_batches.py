"""Batches: what is trained on, when, and how it is packed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("pydantic", reason="the extra `train` is not installed")

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from captionkit.data.images import Preprocessing, load_image
from captionkit.data.layouts import CaptionSet, Example, open_dataset
from captionkit.data.tokenizer import Tokenizer
from captionkit.training.data.augment import random_crop
from captionkit.training.data.collate import collate
from captionkit.training.data.dataset import CaptionDataset, Sample
from captionkit.training.data.flip import can_flip
from captionkit.training.data.loader import _ahead, _threads, batches, eval_batches
from captionkit.training.data.sampler import EpochSampler
from shapes import draw, make_recipe, make_shapes

SEEN = Preprocessing(height=16, width=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> CaptionSet:
    return open_dataset(make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=14, val=1))["train"]


@pytest.fixture(scope="module")
def text(pictures: CaptionSet) -> Tokenizer:
    return Tokenizer.train([caption for example in pictures for caption in example.captions], min_frequency=1)


def recipe_of(**changes: object):
    return make_recipe("mobilenet-v2", {name.replace("__", "."): value for name, value in changes.items()})


def unpack(batch) -> list[tuple[int, list[int]]]:
    """(row of the image, token ids) of each caption, read off the packing's definition."""
    captions: list[list[int]] = [[] for _ in range(batch.captions.sizes[0])]
    pairs = iter(zip(batch.captions.tokens.tolist(), batch.targets.tolist(), strict=True))
    for size in batch.captions.sizes:
        for caption in captions[:size]:
            token, target = next(pairs)
            assert caption[-1:] in ([], [token])  # each target is the next token
            caption[-1:] = [token, target]
    return list(zip(batch.captions.image_index.tolist(), captions, strict=True))


def test_packing_is_torchs_own() -> None:
    generator = np.random.default_rng(3)
    samples = [
        Sample(
            np.zeros((4, 2), np.float32),
            [generator.integers(4, 99, generator.integers(2, 9)).tolist() for _ in range(3)],
        )
        for _ in range(5)
    ]
    batch = collate(samples, features=True)
    flat = [(row, caption) for row, sample in enumerate(samples) for caption in sample.captions]
    flat.sort(key=lambda pair: -len(pair[1]))
    for shift, ours in ((0, batch.captions.tokens), (1, batch.targets)):
        rows = [torch.tensor(caption[shift : len(caption) - 1 + shift]) for _, caption in flat]
        packed = pack_padded_sequence(pad_sequence(rows, batch_first=True), [len(r) for r in rows], batch_first=True)
        assert torch.equal(ours, packed.data)
        assert batch.captions.sizes == packed.batch_sizes.tolist()
    assert batch.captions.image_index.tolist() == [row for row, _ in flat]
    assert len(batch.targets) == sum(len(caption) - 1 for _, caption in flat)  # no padding
    assert batch.features.shape == (5, 4, 2) and batch.images is None


@pytest.mark.parametrize(("size", "parts", "processes"), [(4, 1, 1), (4, 3, 1), (5, 2, 2), (32, 1, 1), (4, 4, 2)])
def test_every_caption_is_taught_once_an_epoch(
    pictures: CaptionSet, text: Tokenizer, size: int, parts: int, processes: int
) -> None:
    recipe = recipe_of(trainer__batch_size=size, trainer__gradient_accumulation_steps=parts)
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    plans = [EpochSampler(len(pictures), recipe, processes=processes, rank=rank) for rank in range(processes)]
    assert plans[0].steps_per_epoch == -(-14 // size)
    for epoch in range(2):
        counted: Counter = Counter()
        for plan in plans:
            start, stop = (n * plan.steps_per_epoch for n in (epoch, epoch + 1))
            for keys in [k for _, k in zip(range((stop - start) * parts), plan.keys(start), strict=False)]:
                assert {e for e, _ in keys} <= {epoch}
                if not keys:
                    continue
                batch = collate([train_set[key] for key in keys], features=False)
                assert len(batch.images) == len(keys)  # an image is there once, however many captions it has
                counted.update((keys[row][1], tuple(ids)) for row, ids in unpack(batch))
        wanted = Counter(
            (index, tuple(ids)) for index, e in enumerate(pictures) for ids in text.encode_batch(e.captions)
        )
        assert counted == wanted


def test_epochs_differ_in_order_and_runs_in_seed() -> None:
    orders = [
        [
            int(i)
            for step in range(3)
            for i in EpochSampler(12, recipe_of(trainer__seed=seed)).images_of(3 * epoch + step)[1]
        ]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_parts_and_processes_share_the_same_steps() -> None:
    one = EpochSampler(11, recipe_of(trainer__batch_size=4))
    for parts, processes in ((2, 1), (1, 2), (2, 3)):
        recipe = recipe_of(trainer__batch_size=4, trainer__gradient_accumulation_steps=parts)
        shares = [list(EpochSampler(11, recipe, processes=processes, rank=rank).keys(1)) for rank in range(processes)]
        for step, whole_step in enumerate(one.keys(1)):
            met = [key for share in shares for keys in share[step * parts : (step + 1) * parts] for key in keys]
            assert sorted(met) == sorted(whole_step)


def same(one, other) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.captions.tokens, other.captions.tokens)
        and one.captions.sizes == other.captions.sizes
        and torch.equal(one.captions.image_index, other.captions.image_index)
        and torch.equal(one.targets, other.targets)
    )


def test_workers_and_a_later_start_change_nothing(pictures: CaptionSet, text: Tokenizer) -> None:
    recipe = recipe_of(image__random_resized_crop_scale=0.5, image__flip="true", data__captions_per_image=1)
    plan = EpochSampler(len(pictures), recipe)
    found = {
        (start, workers): list(
            batches(CaptionDataset(pictures, text, recipe, SEEN, augment=True), plan, start, workers)
        )
        for start, workers in ((0, 0), (0, 2), (3, 0), (3, 2))
    }
    plain = found[0, 0]
    assert len(plain) == plan.steps == 8
    assert not same(plain[0], plain[4])
    for (start, _), met in found.items():
        assert len(met) == len(plain) - start
        assert all(same(one, other) for one, other in zip(plain[start:], met, strict=True))


def test_what_fails_in_a_thread_is_not_lost_and_an_early_end_leaves_no_thread(
    pictures: CaptionSet, text: Tokenizer
) -> None:
    recipe = recipe_of(trainer__epochs=50)
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    plan = EpochSampler(len(pictures), recipe)
    early = batches(train_set, plan, 0, 2)
    next(early)
    early.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("captionkit-images") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
    train_set.flippable = train_set.flippable[:3]
    with pytest.raises(IndexError):
        list(batches(train_set, plan, 0, 2))


class Counting(CaptionDataset):
    """Counts the images that are prepared, and may have them wait."""

    prepared = 0

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        sample = super().__getitem__(key)
        self.prepared += 1
        return sample


@pytest.mark.parametrize(("size", "workers"), [(2, 1), (14, 1), (4, 3)])
def test_what_is_prepared_ahead_is_bounded_in_pictures(
    pictures: CaptionSet, text: Tokenizer, size: int, workers: int
) -> None:
    recipe = recipe_of(trainer__batch_size=size, trainer__epochs=100)
    train_set = Counting(pictures, text, recipe, SEEN, augment=True)
    plan = EpochSampler(len(pictures), recipe)
    prepared = batches(train_set, plan, 0, workers)
    taken = 0
    most = _ahead(workers) + size
    assert most == 16 * workers + size
    for _ in range(30):
        taken += len(next(prepared).images)
        time.sleep(0.005)  # whoever could run ahead has the time
        assert taken <= train_set.prepared < taken + most
    prepared.close()


def test_a_batch_is_prepared_by_several_threads(pictures: CaptionSet, text: Tokenizer) -> None:
    """All images of a single batch wait for one another: threads that took whole batches would never meet."""
    meeting = threading.Barrier(3)

    class Meeting(CaptionDataset):
        def __getitem__(self, key: tuple[int, int]) -> Sample:
            if key[1] % 4 == 0:
                meeting.wait(30)
            return super().__getitem__(key)

    recipe = recipe_of(trainer__batch_size=12, trainer__epochs=1)
    train_set = Meeting(pictures.subset(range(12)), text, recipe, SEEN, augment=False)
    (batch,) = eval_batches(train_set, 12, 0, 1, workers=3)
    assert batch.indices == tuple(range(12))


def test_threads_are_one_a_core_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert (_threads(-1), _threads(3), _threads(0)) == (12, 3, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert _threads(-1) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "40")
    assert _threads(-1) == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(400)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert _threads(-1) == 16


def test_crops_keep_enough_of_the_picture() -> None:
    generator = np.random.default_rng(0)
    for smallest in (0.1, 0.6, 0.9):
        boxes = np.array([random_crop(generator, smallest) for _ in range(2000)])
        left, top, right, bottom = boxes.T
        assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-12
        area, shape = (right - left) * (bottom - top), (right - left) / (bottom - top)
        assert area.min() >= smallest - 1e-9 and area.max() > smallest + 0.9 * (1 - smallest)
        assert area.min() < smallest + 0.1 * (1 - smallest)
        assert shape.min() >= 3 / 4 - 1e-9 and shape.max() <= 4 / 3 + 1e-9
        assert (left > 0.01).any() and (top > 0.01).any()
    assert random_crop(generator, 1.0) is None


def test_half_of_the_pictures_are_mirrored_unless_words_forbid_it(text: Tokenizer, tmp_path: Path) -> None:
    draw("red", "bar").resize((32, 32)).crop((0, 0, 20, 32)).save(tmp_path / "p.png")
    allowed = Example(0, tmp_path / "p.png", ("a red bar, left-over",))
    forbidden = Example(1, tmp_path / "p.png", ("a red bar", "a red bar on the Left."))
    pictures = CaptionSet("p", "train", (allowed, forbidden))
    recipe = recipe_of(image__flip="true", image__flip_unless="left,upright")
    assert not can_flip(allowed.captions, recipe.image)
    allowed = Example(0, allowed.image, ("a red bar, leftmost",))
    pictures = CaptionSet("p", "train", (allowed, forbidden))
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    straight, mirrored = (load_image(tmp_path / "p.png", SEEN, flip=flip) for flip in (False, True))
    assert not np.array_equal(straight, mirrored)
    seen = [train_set[epoch, 0].image for epoch in range(200)]
    flips = sum(np.array_equal(picture, mirrored) for picture in seen)
    assert flips + sum(np.array_equal(picture, straight) for picture in seen) == 200
    assert 70 < flips < 130
    assert all(np.array_equal(train_set[epoch, 1].image, straight) for epoch in range(50))
    plain = CaptionDataset(pictures, text, recipe, SEEN, augment=False)
    assert all(np.array_equal(plain[epoch, 0].image, straight) for epoch in range(20))


def test_cached_features_are_mirrored_likewise(pictures: CaptionSet, text: Tokenizer) -> None:
    recipe = recipe_of(image__flip="true")
    features = np.arange(14 * 2, dtype=np.float16).reshape(14, 2, 1, 1)
    cached = CaptionDataset(pictures, text, recipe, SEEN, augment=True, features=features, broken={3: "p.png: broken"})
    opened = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    straight = [load_image(example.image, SEEN) for example in pictures]
    for epoch in range(5):
        for index in range(14):
            view = cached[epoch, index].image
            if index == 3:
                assert view is None and cached[epoch, index].broken == "p.png: broken"
            else:
                flipped = not np.array_equal(opened[epoch, index].image, straight[index])
                symmetric = np.array_equal(load_image(pictures[index].image, SEEN, flip=True), straight[index])
                assert view.item() == features[index, int(flipped)].item() or symmetric


def test_long_captions_are_cut_and_do_not_end(text: Tokenizer, tmp_path: Path) -> None:
    caption = "there is a red circle on grey paper"  # eight words
    pictures = CaptionSet("p", "train", (Example(0, tmp_path / "p.png", (caption,)),))
    full = text.encode(caption)
    for most, expected in ((9, full), (8, full), (7, full[:8]), (1, full[:2])):
        train_set = CaptionDataset(pictures, text, recipe_of(data__max_length=most), SEEN, augment=True)
        assert train_set.tokens == [[expected]]
        assert train_set.totals([0], [0]) == (len(expected) - 1, 1)


def test_of_twenty_captions_each_epoch_teaches_a_fresh_few(text: Tokenizer, tmp_path: Path) -> None:
    many = tuple(f"{'red ' * (n + 1)}circle" for n in range(20))
    pictures = CaptionSet("p", "train", (Example(0, tmp_path / "a", many), Example(1, tmp_path / "b", many[:2])))
    recipe = recipe_of(data__captions_per_image=5, image__random_resized_crop_scale=0.5)
    train_set = CaptionDataset(pictures, text, recipe, SEEN, augment=True)
    encoded = text.encode_batch(many)
    counts: Counter = Counter()
    for epoch in range(100):
        chosen = train_set.plan_item(epoch, 0).captions
        assert len(chosen) == 5 == len({tuple(c) for c in chosen}) and all(c in encoded for c in chosen)
        assert train_set[epoch, 0].captions == chosen  # the image is missing, but its captions are still these
        few = train_set.plan_item(epoch, 1).captions
        assert few == encoded[:2]
        assert train_set.totals([epoch] * 2, [0, 1]) == (sum(len(c) - 1 for c in [*chosen, *few]), 7)
        counts.update(map(tuple, chosen))
    assert len(counts) == 20 and max(counts.values()) < 3 * min(counts.values())
    looked_at = CaptionDataset(pictures, text, recipe, SEEN, augment=False)
    assert looked_at[0, 0].captions == encoded


def test_unreadable_pictures_are_left_out_and_named(pictures: CaptionSet, text: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = Example(99, tmp_path / "bad.png", ("a red circle", "a red one"))
    mixed = CaptionSet("p", "train", (pictures[0], bad, pictures[1]))
    train_set = CaptionDataset(mixed, text, recipe_of(), SEEN, augment=False)
    batch = collate([train_set[0, index] for index in range(3)], features=False)
    assert batch.images.shape == (2, 3, 16, 16) and sorted(set(batch.captions.image_index.tolist())) == [0, 1]
    assert len(batch.captions.image_index) == 4
    assert len(batch.broken) == 1 and "bad.png" in batch.broken[0]
    nothing = collate([train_set[0, 1]], features=False)
    assert nothing.images is None and nothing.captions.sizes == [] and len(nothing.targets) == 0
    assert nothing.to(torch.device("cpu")).broken == nothing.broken


def test_a_split_is_looked_at_once_by_all_processes_together(pictures: CaptionSet, text: Tokenizer) -> None:
    train_set = CaptionDataset(
        pictures, text, recipe_of(image__random_resized_crop_scale=0.5, image__flip="true"), SEEN, augment=False
    )
    looks = [batch for rank in range(3) for batch in eval_batches(train_set, 2, rank, 3, workers=rank)]
    assert sum(len(batch.images) for batch in looks) == 14
    seen = sorted(image.numpy().tobytes() for batch in looks for image in batch.images)
    assert seen == sorted(load_image(example.image, SEEN).tobytes() for example in pictures)
    assert sum(batch.captions.sizes[0] for batch in looks) == 28
