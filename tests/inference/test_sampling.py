"""Samples against the exact distribution of all captions, enumerated from the model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from captionkit.data.special_tokens import SpecialTokens
from captionkit.inference.search import Begun, Constraints, Decoding, Hypothesis, search
from steppers import BANNED, BOS, EOS, RandomModel, RandomStepper, brief, pictures, run
from tiers import slow

A, B, C = range(4, 7)  # the words of the models


def may_follow(words: tuple[int, ...], token: int, decoding: Decoding, constraints: Constraints) -> bool:
    if token == EOS:
        return len(words) >= decoding.min_length
    said = (*words, token)
    banned = any(said[-len(phrase) :] == phrase for phrase in constraints.banned)
    return token not in BANNED and not banned and not (decoding.no_repeat_ngram_size and token in words)


def step_of(
    model: RandomModel, words: tuple[int, ...], decoding: Decoding, constraints: Constraints
) -> dict[int, float]:
    """The distribution that one token is drawn from."""
    row = model.log_probs(0, words)
    ranked = sorted(
        (t for t in range(model.size) if may_follow(words, t, decoding, constraints) and row[t] > -np.inf),
        key=lambda token: -row[token],
    )
    ranked = ranked[: decoding.top_k or None]
    weights = {token: float(np.exp(row[token] / decoding.temperature)) for token in ranked}
    total, nucleus = sum(weights.values()), {}
    for token in ranked:
        if decoding.top_p < 1 and sum(nucleus.values()) >= decoding.top_p * total:
            break
        nucleus[token] = weights[token]
    return {token: weight / sum(nucleus.values()) for token, weight in nucleus.items()}


def distribution(model: RandomModel, decoding: Decoding, constraints: Constraints) -> dict[tuple[tuple, bool], float]:
    """The probability of each caption (words, finished)."""
    captions: dict[tuple[tuple, bool], float] = {}
    waiting = [(constraints.prefix, 1.0)]
    while waiting:
        words, probability = waiting.pop()
        for token, share in step_of(model, words, decoding, constraints).items():
            if token == EOS:
                captions[words, True] = captions.get((words, True), 0) + probability * share
            elif len(words) == decoding.max_length:
                captions[words, False] = captions.get((words, False), 0) + probability * share
            else:
                waiting.append(((*words, token), probability * share))
    return captions


def surprise(found: list[Hypothesis], expected: dict[tuple[tuple, bool], float]) -> float:
    """How many standard deviations Pearson's statistic lies above what chance alone gives; inf for the impossible."""
    counts = Counter((tuple(h.tokens.tolist()), h.finished) for h in found)
    if not set(counts) <= set(expected):
        return np.inf
    bins = [(counts[caption], len(found) * share) for caption, share in expected.items()]
    large = [(seen, wanted) for seen, wanted in bins if wanted >= 5]
    rest = [sum(column) for column in zip(*(b for b in bins if b[1] < 5), strict=True)]
    large += [tuple(rest)] if rest and rest[1] >= 5 else []
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in large)
    freedom = len(large) - 1
    assert freedom >= 3
    return (statistic - freedom) / np.sqrt(2 * freedom)


def draw(model: RandomModel, decoding: Decoding, constraints: Constraints, seeds: int = 12) -> list[Hypothesis]:
    found = []
    for seed in range(seeds):
        settings = Decoding(**{**decoding.to_dict(), "seed": seed, "num_captions": 1000})
        found += run(model, settings, 0, constraints=constraints)[0]
    return found


MODES = [
    (Decoding(temperature=1, max_length=3), Constraints()),
    (Decoding(temperature=1, min_length=0, max_length=2), Constraints()),
    (Decoding(temperature=0.6, max_length=3), Constraints()),
    (Decoding(temperature=1.8, min_length=2, max_length=3), Constraints()),
    (Decoding(temperature=1, top_k=2, max_length=4), Constraints()),
    (Decoding(temperature=1, top_p=0.8, max_length=3), Constraints()),
    (Decoding(temperature=1.5, top_k=3, top_p=0.9, max_length=3), Constraints()),
    (Decoding(temperature=1, no_repeat_ngram_size=1, top_k=2, max_length=2), Constraints()),
    (Decoding(temperature=1, max_length=4), Constraints(prefix=(B, A), banned=((A, A), (C,)))),
]


@pytest.mark.parametrize(("decoding", "constraints"), [MODES[0], MODES[-1], *slow(*MODES[1:-1])], ids=lambda value: "")
def test_frequencies_are_the_probabilities(decoding, constraints):
    model = RandomModel(3, seed=8, specials=1, zeros=0.1)
    expected = distribution(model, decoding, constraints)
    assert sum(expected.values()) == pytest.approx(1)
    found = draw(model, decoding, constraints)
    assert len(found) == 12_000
    assert surprise(found, expected) < 4


@pytest.mark.slow
def test_other_probabilities_would_show():
    model = RandomModel(3, seed=8, specials=1, zeros=0.1)
    found = draw(model, MODES[0][0], Constraints())
    for other, _ in MODES[2:7]:
        assert surprise(found, distribution(model, other, Constraints())) > 20


def test_what_is_reported_is_the_models_own_probability():
    model = RandomModel(20, seed=2, end=1, specials=2)
    decoding = Decoding(temperature=0.5, top_k=5, top_p=0.9, num_captions=50, max_length=6, length_penalty=0.7)
    for found in run(model, decoding, 0, 1):
        assert len(found) == 50
        assert [(not h.finished, -h.score) for h in found] == sorted((not h.finished, -h.score) for h in found)
    for h in run(model, decoding, 3)[0]:
        words = tuple(h.tokens.tolist())
        sequence = (*words, EOS) if h.finished else words
        rescored = [float(model.log_probs(3, words[:t])[token]) for t, token in enumerate(sequence)]
        assert h.log_prob == pytest.approx(sum(rescored), rel=1e-12)
        assert h.score == pytest.approx(h.log_prob / len(sequence) ** 0.7, rel=1e-12)
        assert h.token_log_probs.tolist() == pytest.approx(rescored[: len(words)])
        assert h.attention.tolist() == [model.attention(3, words[:t]).tolist() for t in range(len(words))]


def test_a_picture_gets_its_captions_wherever_it_stands():
    model = RandomModel(30, seed=5, end=5)
    decoding = Decoding(temperature=1, num_captions=4, max_length=12, seed=3)
    alone = {image: brief(run(model, decoding, image)[0]) for image in range(12)}
    assert len({str(captions) for captions in alone.values()}) == 12
    stepper = RandomStepper(model)
    found = run(model, decoding, *reversed(range(12)), 0, stepper=stepper)
    assert [brief(f) for f in found] == [*(alone[image] for image in reversed(range(12))), alone[0]]
    assert stepper.computed < 13 * stepper.steps, "images that are done leave"


def test_seeds():
    model = RandomModel(30, seed=5, end=1)

    def said(seed: int, samples: int, **more) -> set:
        decoding = Decoding(temperature=1, num_captions=samples, seed=seed, **more)
        return {str(caption) for caption in brief(run(model, decoding, 0)[0])}

    assert said(1, 8) == said(1, 8) != said(2, 8)
    assert said(1, 3) < said(1, 8), "more samples leave the first ones as they are"
    assert len(said(1, 8)) > 4
    assert said(2**63 - 1, 8) != said(1, 8)


def test_a_cold_temperature_is_greedy_search():
    model = RandomModel(30, seed=5, end=1)
    greedy = run(model, Decoding(num_beams=1), *range(8))
    for decoding in (Decoding(temperature=1e-3), Decoding(temperature=1e-300), Decoding(temperature=1, top_k=1)):
        with np.errstate(all="raise"):
            assert [brief(f) for f in run(model, decoding, *range(8))] == [brief(f) for f in greedy]


def test_a_sample_without_a_way_on_is_dropped():
    model = RandomModel(1, end=-30)  # its only word may not follow itself
    decoding = Decoding(temperature=1, min_length=2, no_repeat_ngram_size=1, num_captions=3)
    assert run(model, decoding, 0, 1) == [[], []]

    class Broken(RandomModel):
        def _log_probs(self, image, prefix):
            row = super()._log_probs(image, prefix)
            return np.full_like(row, {1: -np.inf, 2: np.nan}[image]) if image in (1, 2) else row

    with np.errstate(all="raise"):
        found = run(Broken(10), Decoding(temperature=1, num_captions=2, max_length=6), 0, 1, 2, 3)
    assert [len(f) for f in found] == [2, 0, 0, 2]


def test_pictures_are_told_apart_by_content():
    first, second = pictures(1), pictures(1)
    second[0, 0, 0, 1] += 1  # the model looks at another pixel
    stepper, decoding = RandomStepper(RandomModel(30, seed=5, end=1)), Decoding(temperature=1, num_captions=5)
    found = [
        brief(search(stepper, Begun(stepper.begin(images), images), decoding, SpecialTokens((BOS,), EOS))[0])
        for images in (first, first.copy(), second)
    ]
    assert found[0] == found[1] != found[2]
