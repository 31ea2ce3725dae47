"""Constraints, forced words and diverse groups against enumeration and a naive search over whole distributions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.search import RENAMED, Constraints, Decoding, Hypothesis
from steppers import BANNED, EOS, UNK, RandomModel, brief, run
from tiers import slow

A, B, C, D = range(4, 8)  # the words of the models


def contains(words: list[int], phrase: tuple[int, ...]) -> bool:
    return any(tuple(words[i : i + len(phrase)]) == phrase for i in range(len(words) - len(phrase) + 1))


def allowed(words: list[int], decoding: Decoding, constraints: Constraints) -> bool:
    """Whether the last of `words` may follow the others."""
    if len(words) <= len(constraints.prefix):
        return True
    banned = any(tuple(words[-len(phrase) :]) == phrase for phrase in constraints.banned)
    said, word = words[:-1], words[-1]
    n = decoding.no_repeat_ngram_size
    run = tuple(words[-n:])
    again = n and (said[-1:] == [word] or (len(words) > n and contains(said, run)))
    return not banned and not again


def log_prob_of(model: RandomModel, image: int, sequence: list[int]) -> float:
    return sum(float(model.log_probs(image, tuple(sequence[:t]))[token]) for t, token in enumerate(sequence))


def enumerate_all(model: RandomModel, image: int, decoding: Decoding, constraints: Constraints):
    """Every finished caption that may be, best first."""
    found = []
    for length in range(decoding.min_length, decoding.max_length + 1):
        for rest in itertools.product(range(4, model.size), repeat=max(0, length - len(constraints.prefix))):
            words = [*constraints.prefix, *rest]
            fits = len(words) == length and all(contains(words, phrase) for phrase in constraints.words)
            if fits and all(allowed(words[:n], decoding, constraints) for n in range(1, length + 1)):
                log_prob = log_prob_of(model, image, [*words, EOS])
                found.append((log_prob / (length + 1) ** decoding.length_penalty, words))
    return sorted(found, reverse=True)


CONSTRAINTS = [
    Constraints(banned=((A,),)),
    Constraints(banned=((A, B), (C, C), (B, A, B))),
    Constraints(prefix=(B, A)),
    Constraints(prefix=(A, A), banned=((A, A, B),)),
    Constraints(words=((C,),)),
    Constraints(words=((A, B),)),
    Constraints(words=((A,), (C,))),
    Constraints(words=((A, A, B),)),  # it overlaps itself: "a a a b" holds it
    Constraints(words=((A, B, A),)),
    Constraints(words=((A, B), (B, C))),  # they may overlap each other: "a b c"
    Constraints(words=((A, B), (A, B))),
    Constraints(prefix=(C, A), words=((C,), (A, B))),  # begun by the prefix, or done with it
    Constraints(prefix=(C, A), words=((C, A),)),
    Constraints(prefix=(B,), words=((A,),), banned=((B, A), (C, C))),
]


@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=str)
@pytest.mark.parametrize("no_repeat", [0, *slow(2)])
@pytest.mark.parametrize(("penalty", "min_length", "max_length"), [(1, 0, 4), *slow((0, 3, 4))])
def test_a_wide_beam_equals_enumeration(constraints, no_repeat, penalty, min_length, max_length):
    decoding = Decoding(400, 60, penalty, min_length, max_length, no_repeat)
    for seed in range(3):
        model = RandomModel(3, seed=seed, end=2 * seed - 2, specials=seed)
        (found,) = run(model, decoding, seed, constraints=constraints)
        expected = enumerate_all(model, seed, decoding, constraints)
        finished = [h for h in found if h.finished]
        assert [h.tokens.tolist() for h in finished] == [words for _, words in expected[:60]]
        np.testing.assert_allclose([h.score for h in finished], [score for score, _ in expected[:60]], rtol=1e-12)
        check(model, seed, decoding, constraints, found)


def check(model: RandomModel, image: int, decoding: Decoding, constraints: Constraints, found: list[Hypothesis]):
    """What must hold of every result, from the model alone."""
    for h in found:
        words = h.tokens.tolist()
        assert not {EOS, *BANNED} & set(words)
        assert decoding.min_length <= len(words) <= decoding.max_length
        assert tuple(words[: len(constraints.prefix)]) == constraints.prefix
        assert all(contains(words, phrase) for phrase in constraints.words), "cut or not, it has what it must have"
        assert all(allowed(words[:n], decoding, constraints) for n in range(1, len(words) + 1))
        sequence = [*words, EOS] if h.finished else words
        assert h.log_prob == pytest.approx(log_prob_of(model, image, sequence), rel=1e-12)
        assert h.score == pytest.approx(h.log_prob / len(sequence) ** decoding.length_penalty, rel=1e-12)
        rescored = [model.log_probs(image, tuple(words[:t]))[token] for t, token in enumerate(words)]
        assert h.token_log_probs.tolist() == rescored
        assert h.attention.tolist() == [model.attention(image, tuple(words[:t])).tolist() for t in range(len(words))]
        assert h.finished or len(words) == decoding.max_length


def bank(words: list[int], constraints: Constraints) -> int:
    """How many of the forced tokens are said: of a phrase that is not, what the words end in."""
    said = 0
    for phrase in dict.fromkeys(constraints.words):
        ends = [n for n in range(len(phrase)) if n == 0 or tuple(words[-n:]) == phrase[:n]]
        said += len(phrase) if contains(words, phrase) else max(ends)
    return said


def naive(model: RandomModel, image: int, d: Decoding, constraints: Constraints) -> list[tuple[list[int], bool, float]]:
    """The search as its docstring tells it, one hypothesis at a time."""
    width, everything = d.num_beams // d.num_beam_groups, sum(map(len, dict.fromkeys(constraints.words)))
    start = list(constraints.prefix)
    begun = log_prob_of(model, image, start)
    live = [[(start, begun)] if begun > -np.inf else [] for _ in range(d.num_beam_groups)]
    finished: list[list[tuple[list[int], bool, float]]] = [[] for _ in range(d.num_beam_groups)]
    share = -(-d.num_captions // d.num_beam_groups)
    for length in range(len(start), d.max_length + 1):
        said: list[int] = []  # by earlier groups
        for group in range(d.num_beam_groups):
            options = []
            for words, log_prob in live[group]:
                row = model.log_probs(image, tuple(words))
                for token in range(model.size):
                    ends = token == EOS
                    complete = length >= d.min_length and all(contains(words, phrase) for phrase in constraints.words)
                    possible = complete if ends else allowed([*words, token], d, constraints)
                    if possible and token not in BANNED and row[token] > -np.inf:
                        total = log_prob + float(row[token])
                        place = everything if ends else bank([*words, token], constraints)
                        penalty = 0 if ends else d.diversity_penalty * said.count(token)
                        options.append((total - penalty, place, words, token, total))
            options.sort(key=lambda option: -option[0])
            lanes = [[option for option in options if option[1] == place] for place in range(everything + 1)]
            ended = [option for lane in lanes for option in lane[:width] if option[3] == EOS]
            for *_, words, _, total in ended:
                finished[group].append((words, True, total / (length + 1) ** d.length_penalty))
            finished[group].sort(key=lambda hypothesis: -hypothesis[2])
            if length == d.max_length:
                ends = [option[2] for option in ended]
                live[group] = [h for h in live[group] if h[0] not in ends and bank(h[0], constraints) == everything]
                continue
            chosen = [option for lane in lanes for option in [o for o in lane if o[3] != EOS][:width]]
            reachable = max((o[4] for o in chosen), default=-np.inf) / (d.max_length + 1) ** d.length_penalty
            worst = finished[group][share - 1][2] if len(finished[group]) >= share else -np.inf
            if worst >= reachable or (width == 1 and not constraints.words and ended):
                chosen = []
            live[group] = [([*words, token], total) for *_, words, token, total in chosen]
            said += [option[3] for option in chosen]
        if not any(live):
            break
    lists = []
    for group in range(d.num_beam_groups):
        cut = sorted(live[group], key=lambda h: -h[1])
        rest = [(words, False, log_prob / len(words) ** d.length_penalty) for words, log_prob in cut]
        lists.append((finished[group][: d.num_captions] + rest)[: d.num_captions])
    captions: list[tuple[list[int], bool, float]] = []
    while any(lists) and len(captions) < d.num_captions:
        for waiting in lists:
            while waiting and waiting[0][0] in [c[0] for c in captions]:
                waiting.pop(0)
            if waiting and len(captions) < d.num_captions:
                captions.append(waiting.pop(0))
    return sorted(captions, key=lambda c: (not c[1], -c[2]))


@st.composite
def decodings(draw):
    groups, width, min_length = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 3)), draw(st.integers(0, 4))
    return Decoding(
        num_beams=groups * width,
        num_beam_groups=groups,
        diversity_penalty=draw(st.sampled_from([0, 0.3, 1, 4])),
        num_captions=draw(st.integers(1, groups * width)),
        length_penalty=draw(st.sampled_from([0, 0.7, 1])),
        min_length=min_length,
        max_length=draw(st.integers(max(min_length, 3), 8)),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2])),
    )


phrases = st.lists(st.integers(A, 9), min_size=1, max_size=3).map(tuple)
constraint_sets = st.builds(
    Constraints,
    prefix=st.lists(st.integers(A, 9), max_size=3).map(tuple),
    banned=st.lists(phrases, max_size=3).map(tuple),
    words=st.lists(phrases, max_size=2).map(tuple),
).filter(lambda c: not any(contains(list(c.prefix), phrase) for phrase in c.banned))
models = st.builds(
    RandomModel,
    st.sampled_from([6, 8, 20]),
    seed=st.integers(0, 10_000),
    end=st.sampled_from([-3, 0, 2, 4]),
    specials=st.sampled_from([-2, 4]),
    zeros=st.sampled_from([0, 0, 0.3]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models, decodings(), constraint_sets, st.lists(st.integers(0, 50), min_size=1, max_size=3))
def test_search_equals_a_naive_one(model, decoding, constraints, images):
    results = run(model, decoding, *images, constraints=constraints)
    for image, found in zip(images, results, strict=True):
        expected = naive(model, image, decoding, constraints)
        assert brief(found) == [(words, finished) for words, finished, _ in expected]
        np.testing.assert_allclose([h.score for h in found], [score for *_, score in expected], rtol=1e-9)
        check(model, image, decoding, constraints, found)


def test_one_group_is_a_plain_beam():
    model = RandomModel(30, seed=3, end=1)
    plain = run(model, Decoding(4, 3, 0.7, max_length=12), *range(8))
    grouped = run(model, Decoding(4, 3, 0.7, max_length=12, num_beam_groups=1, diversity_penalty=50), *range(8))
    assert [brief(found) for found in plain] == [brief(found) for found in grouped]


def test_groups_differ_the_more_the_stronger_the_diversity():
    model = RandomModel(30, seed=3, end=1)

    def first_words(diversity: float) -> float:
        decoding = Decoding(6, 3, 0.7, max_length=12, num_beam_groups=3, diversity_penalty=diversity)
        return np.mean([len({h.tokens[0] for h in found}) for found in run(model, decoding, *range(20))])

    (none, some), strong = (first_words(diversity) for diversity in (0, 0.5)), first_words(50)
    assert none < some < strong == 3, "each group gives one caption, and begins it differently"


def test_forced_words_come_even_if_they_are_unlikely():
    class Reluctant(RandomModel):
        def _log_probs(self, image, prefix):
            row = super()._log_probs(image, prefix)
            row[D] = -60
            return row

    model = Reluctant(40, end=4)
    decoding = Decoding(num_beams=2, max_length=9)
    for image in range(20):
        (found,) = run(model, decoding, image, constraints=Constraints(words=((D,), (A, D))))
        assert [h.finished for h in found] == [True]
        assert contains(found[0].tokens.tolist(), (A, D))


def test_what_cannot_be_said_is_not_claimed():
    model = RandomModel(10, end=1)
    for constraints in (
        Constraints(words=((A, B, C, D),)),  # longer than a caption may be
        Constraints(words=((A,),), banned=((A,),)),
        Constraints(words=((UNK,),)),
        Constraints(prefix=(UNK,)),
        Constraints(prefix=(A,), banned=((A,),)),
    ):
        assert run(model, Decoding(num_beams=3, max_length=3), 0, 1, constraints=constraints) == [[], []]


def test_a_prefix_may_be_all_that_there_is_room_for():
    model = RandomModel(10)
    both = {
        h.finished
        for image in range(40)
        for h in run(model, Decoding(num_beams=1, max_length=2), image, constraints=Constraints(prefix=(A, B)))[0]
    }
    assert both == {True, False}, "those whose likeliest next token is the end, and the others"
    with pytest.raises(CaptionkitError, match="prefix has 2 tokens, but max_length is 1"):
        run(model, Decoding(max_length=1), 0, constraints=Constraints(prefix=(A, B)))


def test_text_without_its_ids_is_refused():
    with pytest.raises(CaptionkitError, match="names words, but no constraints are given"):
        run(RandomModel(3), Decoding(prefix="a"), 0)


def test_new_fields_go_through_a_dictionary():
    decoding = Decoding(
        6,
        num_beam_groups=2,
        diversity_penalty=0.25,
        seed=4,
        bad_words=("dog", "red car"),
        prefix="a photo of",
        force_words=("cat",),
    )
    stored = decoding.to_dict()
    assert stored["bad_words"] == ["dog", "red car"]
    assert Decoding.from_dict(stored) == decoding
    sampling = Decoding(temperature=0.7, top_k=50, top_p=0.9)
    assert Decoding.from_dict(sampling.to_dict()) == sampling
    old = {"beam": 3, "num_captions": 1, "length_penalty": 0.7, "min_length": 1, "max_length": 30, "no_repeat": 3}
    assert Decoding.from_dict(old) == Decoding(3, 1, 0.7, 1, 30, 3)


OLD = {
    "beam": 4,
    "no_repeat": 2,
    "groups": 2,
    "diversity": 0.3,
    "words": ("dog",),
    "banned_words": ("cat",),
    "horizon": 1,
}
PRESENT = Decoding(
    num_beams=4,
    no_repeat_ngram_size=2,
    num_beam_groups=2,
    diversity_penalty=0.3,
    force_words=("dog",),
    bad_words=("cat",),
    early_stop_horizon=1,
)


@pytest.mark.filterwarnings("error")
def test_a_model_folder_may_have_the_old_names():
    assert Decoding.from_dict(OLD) == PRESENT
    assert not RENAMED.keys() & PRESENT.to_dict().keys()
    with pytest.raises(ModelError, match="decoding: beam is the old name of num_beams, which is given too"):
        Decoding.from_dict({"beam": 3, "num_beams": 4})


def test_old_names_are_taken_and_given_with_a_warning_where_they_stand():
    with pytest.warns(FutureWarning) as caught:
        assert Decoding(**OLD) == PRESENT
    assert {str(one.message) for one in caught} == {f"{old} is now {new}" for old, new in RENAMED.items()}
    assert {one.filename for one in caught} == {__file__}
    with pytest.warns(FutureWarning, match="beam is now num_beams") as caught:
        assert replace(PRESENT, beam=6).num_beams == 6 and PRESENT.beam == 4
    assert {one.filename for one in caught} == {__file__}


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(CaptionkitError, match="there is no decoding option 'temprature'; did you mean temperature"):
        replace(Decoding(), temprature=1)
    with pytest.raises(AttributeError, match="no attribute 'beems'"):
        _ = Decoding().beems


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_beam_groups": 2, "num_beams": 5},
            "num_beam_groups is 2, but must divide num_beams, which is 5; use num_beams 6",
        ),
        (
            {"num_beam_groups": 2, "num_beams": 4, "temperature": 1},
            "num_beam_groups is 2, but sampling has no beam to divide",
        ),
        ({"diversity_penalty": -1}, "diversity_penalty is -1; use a number from 0 to 100"),
        ({"temperature": -1}, "temperature is -1; use a number from 0 to 100"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 5}, "top_k is 5, which is for sampling; set a temperature too"),
        ({"top_p": 0.9}, "top_p is 0.9, which is for sampling; set a temperature too"),
        ({"top_p": 0, "temperature": 1}, "top_p is 0, so that no word can come"),
        ({"top_p": 1.1, "temperature": 1}, "top_p is 1.1; use a number from 0 to 1"),
        ({"top_k": -1, "temperature": 1}, "top_k is -1; use a whole number"),
        ({"seed": -1}, "seed is -1; use a whole number"),
        ({"force_words": ["dog"], "temperature": 1}, "force_words such as 'dog' are searched for, not sampled"),
        ({"force_words": "dog"}, "force_words is 'dog'; use a list of words or phrases"),
        ({"bad_words": ["dog", 3]}, "bad_words is ['dog', 3]; use a list of words or phrases"),
        ({"prefix": None}, "prefix is None; use a text"),
    ],
)
def test_what_does_not_fit_is_one_sentence(values, message):
    with pytest.raises(ModelError) as error:
        Decoding.from_dict(values)
    assert str(error.value).startswith(f"decoding: {message}")
    assert "\n" not in str(error.value)
