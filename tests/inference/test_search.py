"""Search against enumeration, an argmax loop and a naive beam search, over random models of whole prefixes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.data.special_tokens import SpecialTokens
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.search import Begun, Constraints, Decoding, Hypothesis, search
from steppers import (
    BANNED,
    BOS,
    EOS,
    PAD,
    UNK,
    RandomModel,
    RandomStepper,
    brief,
    pictures,
    repeats,
    run,
)
from tiers import slow


def enumerate_all(model: RandomModel, image: int, decoding: Decoding) -> list[tuple[float, list[int]]]:
    """Every finished caption that `decoding` allows, best first."""
    found = []
    for length in range(decoding.min_length, decoding.max_length + 1):
        for words in itertools.product(range(4, model.size), repeat=length):
            if repeats(list(words), decoding.no_repeat_ngram_size):
                continue
            sequence = (*words, EOS)
            log_prob = sum(float(model.log_probs(image, words[:t])[sequence[t]]) for t in range(length + 1))
            found.append((log_prob / (length + 1) ** decoding.length_penalty, list(words)))
    return sorted(found, reverse=True)


def naive(model: RandomModel, image: int, d: Decoding, banned) -> tuple[list[tuple[list[int], bool, float]], int]:
    """The search as its docstring tells it, one hypothesis at a time, over whole distributions; and how many steps."""
    live: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], bool, float]] = []
    for length in range(d.max_length + 1):
        continuations = []
        for words, log_prob in live:
            row = model.log_probs(image, tuple(words))
            for token in sorted(range(model.size), key=lambda token: -row[token]):
                allowed = token not in banned and not (token == EOS and length < d.min_length)
                allowed = allowed and (token == EOS or not repeats([*words, token], d.no_repeat_ngram_size))
                if allowed and row[token] > -np.inf:
                    continuations.append((words, token, log_prob + float(row[token])))
        continuations.sort(key=lambda continuation: -continuation[2])
        looked_at = continuations[: 2 * d.num_beams]
        ended = [c for c in looked_at[: d.num_beams] if c[1] == EOS]
        finished += [(words, True, log_prob / (length + 1) ** d.length_penalty) for words, _, log_prob in ended]
        finished.sort(key=lambda hypothesis: -hypothesis[2])
        if length == d.max_length:
            live = [hypothesis for hypothesis in live if hypothesis[0] not in [c[0] for c in ended]]
            break
        live = [([*words, token], log_prob) for words, token, log_prob in looked_at if token != EOS][: d.num_beams]
        furthest = (
            min(length + 1 + d.early_stop_horizon, d.max_length + 1) if d.early_stop_horizon else d.max_length + 1
        )
        reachable = max((log_prob for _, log_prob in live), default=-np.inf) / furthest**d.length_penalty
        worst = finished[d.num_captions - 1][2] if len(finished) >= d.num_captions else -np.inf
        if worst >= reachable or (d.num_beams == 1 and ended):
            live = []
            break
    cut = [(words, False, log_prob / len(words) ** d.length_penalty) for words, log_prob in live]
    return (finished[: d.num_captions] + cut)[: d.num_captions], length + 1


@pytest.mark.parametrize("others", [0, 1])
def test_of_equal_captions_the_first_found_wins(others: int) -> None:
    model = RandomModel(2, seed=0, end=-3, specials=-2, ties=True)
    decoding = Decoding(num_beams=2, length_penalty=2, min_length=0, max_length=1)
    row, after = model.log_probs(42, ()), model.log_probs(42, (5,))
    assert row[EOS] == (row[5] + after[EOS]) / 2**2  # no word, found first, and the word 5
    assert brief(run(model, decoding, 42, *[7] * others, banned=(0, 1, 3))[0]) == [([], True)]


@pytest.mark.parametrize("penalty", [0.5, *slow(0, 1)])
@pytest.mark.parametrize(
    ("words", "min_length", "max_length"), [(3, 2, 4), (1, 1, 6), *slow((5, 1, 3), (3, 0, 4), (8, 2, 2))]
)
@pytest.mark.parametrize("no_repeat", [0, 2, *slow(1, 3)])
def test_a_wide_beam_equals_enumeration(words, min_length, max_length, penalty, no_repeat):
    beam = words**max_length * (words + 1)  # every continuation of every prefix
    decoding = Decoding(beam, min(beam, 60), penalty, min_length, max_length, no_repeat)
    for seed in range(4):
        model = RandomModel(words, seed=seed, end=2 * seed - 2, specials=seed)
        (found,) = run(model, decoding, seed)
        expected = enumerate_all(model, seed, decoding)[: decoding.num_captions]
        finished = [h for h in found if h.finished]
        assert [h.tokens.tolist() for h in finished] == [tokens for _, tokens in expected]
        np.testing.assert_allclose([h.score for h in finished], [score for score, _ in expected], rtol=1e-12)


@st.composite
def decodings(draw):
    beam, min_length = draw(st.integers(1, 7)), draw(st.integers(0, 4))
    return Decoding(
        num_beams=beam,
        num_captions=draw(st.integers(1, beam)),
        length_penalty=draw(st.sampled_from([0, 0.5, 0.7, 1, 2])),
        min_length=min_length,
        max_length=draw(st.integers(max(min_length, 1), 9)),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2, 3])),
        early_stop_horizon=draw(st.sampled_from([0, 0, 1, 2, 50])),
    )


models = st.builds(
    RandomModel,
    st.sampled_from([1, 2, 3, 6, 20, 40]),
    seed=st.integers(0, 10_000),
    end=st.sampled_from([-3, 0, 2, 4]),
    specials=st.sampled_from([-2, 0, 4]),
    zeros=st.sampled_from([0, 0, 0.3, 0.8]),
    ties=st.sampled_from([False, False, False, True]),
)
bans = st.sampled_from([BANNED, (), (4,), (*BANNED, 4, 6, 23), (PAD, BOS, UNK, EOS)])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(models, decodings(), bans, st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_search_equals_a_naive_one(model, decoding, banned, images):
    stepper = RandomStepper(model)
    results = run(model, decoding, *images, banned=banned, stepper=stepper)
    needed = decoding.num_beams + len({EOS, *banned})
    assert min(stepper.top_ks) == needed
    assert max(stepper.top_ks) == needed or decoding.no_repeat_ngram_size
    assert len(results) == len(images)
    steps = []
    for image, found in zip(images, results, strict=True):
        expected, needed = naive(model, image, decoding, banned)
        steps.append(needed)
        assert brief(found) == [(words, finished) for words, finished, _ in expected]
        np.testing.assert_allclose([h.score for h in found], [score for *_, score in expected], rtol=1e-12)
        check(model, image, decoding, banned, found)
    assert stepper.steps == max(steps)


def check(model: RandomModel, image: int, decoding: Decoding, banned, found: list[Hypothesis]) -> None:
    """What must hold of every result, from the model alone."""
    assert len({tuple(h.tokens) for h in found}) == len(found) <= decoding.num_captions
    for h in found:
        words = tuple(h.tokens.tolist())
        assert not {EOS, *banned} & set(words)
        assert decoding.min_length <= len(words) <= decoding.max_length
        sequence = (*words, EOS) if h.finished else words
        rescored = [model.log_probs(image, words[:t])[token] for t, token in enumerate(sequence)]
        assert h.log_prob == pytest.approx(sum(map(float, rescored)), rel=1e-12)
        assert h.score == pytest.approx(h.log_prob / len(sequence) ** decoding.length_penalty, rel=1e-12)
        assert h.token_log_probs.dtype == h.attention.dtype == np.float32
        assert h.token_log_probs.tolist() == rescored[: len(words)]
        ancestors = [model.attention(image, words[:t]) for t in range(len(words))]
        assert h.attention.shape == (len(words), 41)
        assert h.attention.tolist() == [row.tolist() for row in ancestors]


@pytest.mark.parametrize(
    "decoding", [Decoding(5, 3, 0.4, max_length=20), Decoding(num_beams=1), Decoding(4, 2, 0, 2, 20)]
)
def test_a_batch_equals_each_image_alone(decoding):
    model = RandomModel(30, seed=5, end=3)
    needed, alone = [], []
    for image in range(32):
        stepper = RandomStepper(model)
        alone.append(run(model, decoding, image, stepper=stepper)[0])
        needed.append(stepper.steps)
    steps = set(needed)
    assert len(steps) > 3  # the images are done at different times
    together = RandomStepper(model)
    for single, batched in zip(alone, run(model, decoding, *range(32), stepper=together), strict=True):
        assert brief(single) == brief(batched)
        assert [h.score for h in single] == [h.score for h in batched]
        assert all(np.array_equal(a.attention, b.attention) for a, b in zip(single, batched, strict=True))
    assert together.steps == max(steps)
    assert together.computed == sum(needed), "images that are done leave"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(models, decodings(), bans, st.sampled_from([(), ((4, 5), (5, 5), (5, 4, 5))]), st.integers(0, 50))
def test_one_image_is_searched_as_many_are(model, decoding, banned, phrases, image):
    constraints = Constraints(banned=phrases)
    (single,) = run(model, decoding, image, banned=banned, constraints=constraints)
    first, second = run(model, decoding, image, image, banned=banned, constraints=constraints)
    for together in (first, second):
        assert brief(single) == brief(together)
        for one, other in zip(single, together, strict=True):
            assert (one.log_prob, one.score) == (other.log_prob, other.score)
            assert np.array_equal(one.token_log_probs, other.token_log_probs)
            assert np.array_equal(one.attention, other.attention)


@pytest.mark.parametrize("penalty", [0, 1])
def test_greedy_equals_an_argmax_loop(penalty):
    cut = 0
    for seed in range(60):
        model = RandomModel(12, seed=seed, specials=2)
        words: list[int] = []
        while len(words) < 7:
            row = model.log_probs(seed, tuple(words)).copy()
            row[list(BANNED) + [EOS] * (len(words) < 1)] = -np.inf
            if (token := int(row.argmax())) == EOS:
                break
            words.append(token)
        (found,) = run(model, Decoding(num_beams=1, length_penalty=penalty, max_length=7), seed)
        assert [h.tokens.tolist() for h in found] == [words]
        cut += not found[0].finished
    assert 0 < cut < 60


def test_the_search_stops_as_soon_as_nothing_can_win():
    model = RandomModel(20, end=12)  # all but certain to end after each word
    for decoding in (Decoding(num_beams=1, length_penalty=1), Decoding(num_beams=3, length_penalty=0)):
        stepper = RandomStepper(model)
        run(model, decoding, *range(8), stepper=stepper)
        assert stepper.steps == 2


def test_a_near_horizon_stops_earlier_and_a_far_one_changes_nothing():
    model, images = RandomModel(20, end=4), range(30)

    def captions(horizon: int) -> tuple[list, int]:
        steppers = [RandomStepper(model) for _ in images]
        decoding = Decoding(num_beams=4, num_captions=2, length_penalty=1, max_length=20, early_stop_horizon=horizon)
        found = [run(model, decoding, image, stepper=stepper) for image, stepper in zip(images, steppers, strict=True)]
        return [brief(captions) for (captions,) in found], sum(stepper.steps for stepper in steppers)

    exact, near, far = captions(0), captions(1), captions(20)
    assert far == exact
    assert near[1] < exact[1]


def test_a_caption_that_is_cut_ranks_after_the_finished():
    model = RandomModel(6, end=-3)
    decoding = Decoding(num_beams=5, num_captions=5, length_penalty=1, max_length=3)
    mixed = 0
    for image in range(20):
        (found,) = run(model, decoding, image)
        flags = [h.finished for h in found]
        assert flags == sorted(flags, reverse=True)
        for group in (True, False):
            scores = [h.score for h in found if h.finished is group]
            assert scores == sorted(scores, reverse=True)
        mixed += any(flags) and max(h.score for h in found if not h.finished) > found[0].score
    assert mixed  # some of the cut ones would have won on their score


def test_parents_that_are_ignored_would_show():
    class Forgetful(RandomStepper):
        def step(self, tokens, parents, state, top_k):
            stay = np.minimum(np.arange(parents.shape[1])[None], len(state[0][1]) - 1)
            return super().step(tokens, np.broadcast_to(stay, parents.shape).copy(), state, top_k)

    model = RandomModel(20, end=-1)
    decoding = Decoding(num_beams=4, num_captions=4, max_length=8)
    right = run(model, decoding, *range(6))
    wrong = run(model, decoding, *range(6), stepper=Forgetful(model))
    assert [brief(found) for found in right] != [brief(found) for found in wrong]


def test_an_image_without_any_possible_caption_leaves_the_others_alone():
    class Broken(RandomModel):
        def _log_probs(self, image, prefix):
            row = super()._log_probs(image, prefix)
            return np.full_like(row, {1: -np.inf, 2: np.nan}[image]) if image in (1, 2) else row

    model = Broken(10)
    decoding = Decoding(num_beams=3, num_captions=2, max_length=6)
    with np.errstate(all="raise"):
        found = run(model, decoding, 0, 1, 2, 3)
    assert found[1] == found[2] == []
    assert [brief(found[i]) for i in (0, 3)] == [brief(run(model, decoding, i)[0]) for i in (0, 3)]


def test_no_images_give_no_captions():
    assert run(RandomModel(3), Decoding()) == []


def test_a_result_does_not_hold_the_batch_in_memory():
    (found,) = run(RandomModel(10), Decoding(num_beams=2, num_captions=2), 0)
    assert all(array.base is None for h in found for array in (h.tokens, h.token_log_probs, h.attention))


def test_decoding_goes_through_a_dictionary():
    decoding = Decoding(num_beams=7, num_captions=2, length_penalty=0.5, min_length=3, max_length=12)
    assert Decoding.from_dict(decoding.to_dict()) == decoding
    assert Decoding.from_dict({}) == Decoding()
    assert replace(decoding, num_beams=2).num_beams == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beems": 3}, "no field 'num_beems'; did you mean num_beams?"),
        ({"warmth": 3}, "no field 'warmth'; known: num_beams, num_captions"),
        ({"num_beams": 0}, "num_beams is 0; use a whole number from 1 to 1000"),
        ({"num_beams": 2.0}, "num_beams is 2.0"),
        ({"num_beams": True}, "num_beams is True"),
        ({"num_beams": 10**9}, "num_beams is 1000000000"),
        ({"max_length": "30"}, "max_length is '30'"),
        ({"length_penalty": -0.1}, "length_penalty is -0.1; use a number from 0 to 10"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": None}, "length_penalty is None"),
        ({"min_length": 9, "max_length": 8}, "min_length is 9, but must be <= max_length, 8"),
        ({"num_beams": 2, "num_captions": 3}, "num_captions is 3, but must be <= num_beams, which is 2"),
        ([3], "decoding: must be a table of fields, not [3]"),
    ],
)
def test_a_bad_setting_is_named(values, message):
    with pytest.raises(ModelError) as error:
        Decoding.from_dict(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_override_is_not_blamed_on_the_model():
    with pytest.raises(CaptionkitError, match=r"num_captions is 4, but must be <= num_beams, which is 3") as error:
        replace(Decoding(), num_captions=4)
    assert not isinstance(error.value, ModelError)


class PromptedStepper(RandomStepper):
    """Checks that the prompt is fed token by token, and has no attention maps; its words follow as without a prompt."""

    prompt = (BOS, 9, 8)
    capabilities = frozenset(("constraints",))

    def step(self, tokens, parents, state, top_k):
        if self.steps < len(self.prompt) - 1:
            assert tokens.tolist() == [[self.prompt[self.steps]]] * len(state)
            self.steps += 1
            return np.zeros((len(state), 1, 1), np.float32), tokens[..., None], np.empty((len(state), 1, 0)), state
        if self.steps == len(self.prompt) - 1:
            assert tokens.tolist() == [[self.prompt[-1]]] * len(state)
            self.steps, tokens = 0, np.full_like(tokens, BOS)
            self.prompt = ()
        log_probs, ids, _, state = super().step(tokens, parents, state, top_k)
        return log_probs, ids, np.empty((*tokens.shape, 0), np.float32), state


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(temperature=1), Decoding(num_beams=1)])
@pytest.mark.parametrize("images", [(3,), (1, 2, 3)])
def test_a_prompt_is_fed_first_and_is_no_part_of_a_caption(decoding, images):
    model = RandomModel(20, seed=2, end=1)
    stepper = PromptedStepper(model)
    begun = Begun(stepper.begin(pictures(*images)), pictures(*images))
    found = search(stepper, begun, decoding, SpecialTokens(PromptedStepper.prompt, EOS, frozenset(BANNED)))
    for without, (best, *_) in zip(run(model, decoding, *images), found, strict=True):
        assert brief([best]) == brief(without[:1])
        assert best.attention.shape == (len(best.tokens), 0)


def test_one_token_may_begin_and_end_captions():
    class Coinciding(RandomStepper):
        def step(self, tokens, parents, state, top_k):
            tokens = tokens if self.steps else np.where(tokens == EOS, BOS, tokens)
            return super().step(tokens, parents, state, top_k)

    model = RandomModel(20, seed=2, end=1)
    for images in ((3,), (1, 2, 3)):
        stepper = Coinciding(model)
        begun = Begun(stepper.begin(pictures(*images)), pictures(*images))
        found = search(stepper, begun, Decoding(), SpecialTokens((EOS,), EOS, frozenset(BANNED)))
        assert [brief(f) for f in found] == [brief(f) for f in run(model, Decoding(), *images)]
