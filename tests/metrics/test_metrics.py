"""BLEU, ROUGE-L, CIDEr, diversity and resampling, against fixed numbers of pycocoevalcap and against it itself."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import random

import numpy as np
import pytest

from captionkit.errors import CaptionkitError
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.bootstrap import bootstrap, paired
from captionkit.metrics.cider import Cider, CiderD
from captionkit.metrics.diversity import Diversity
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.metric import MetricResult, mean_result
from captionkit.metrics.ngrams import count, find, ngrams, number
from captionkit.metrics.rouge import RougeL, _common

WORDS = ("a", "the", "dog", "cat", "runs", "on", "grass", "red", "of", "and")
CANDIDATES = [
    "a brown dog runs across the green grass",
    "two people ride a a a red bus bus",
    "man",
    "",
    "the the the the the the the the",
    "a small boat lies on the calm water near the shore at dusk",
]
REFERENCES = [
    ["a dog runs on the grass", "a brown dog is running across a lawn", "the dog plays outside"],
    ["a red bus carries two people", "people on a bus"],
    ["a man stands by the sea", "man"],
    ["a cat sleeps", "the cat is asleep on a red sofa"],
    ["the cat sat on the mat"],
    [
        "a boat on the water near the shore",
        "a small boat lies at the shore",
        "boat",
        "a calm lake with one boat at dusk",
    ],
]
# What pycocoevalcap 1.2 gives for these, image by image and, last, for the corpus.
ORACLE = {
    "BLEU": [
        [0.8749999998, 0.6123724355, 0.3968502629, 0.0000594604],
        [0.5555555555, 0.4564354645, 0.3098990471, 0.000047193],
        [0.999999998, 0.001, 0.0001, 0.0000316228],
        [0, 0, 0, 0],
        [0.25, 0.000000006, 0, 0],
        [0.9999999999, 0.8164965809, 0.6235319077, 0.4692470064],
        [0.7179487179, 0.5437149462, 0.3895747909, 0.2596912379],
    ],
    "ROUGE-L": [
        [0.7331730769],
        [0.4959349593],
        [1],
        [0],
        [0.2932692308],
        [0.7960848287],
        [0.553077016],
    ],
    "CIDEr-D": [
        [1.6797921791],
        [1.7273656282],
        [1.6905163469],
        [0],
        [0.077222083],
        [1.5649070322],
        [1.1233005449],
    ],
}


def split(captions):
    return [caption.split() for caption in captions]


def score(metric, candidates, references) -> MetricResult:
    metric.update(split(candidates), [split(some) for some in references])
    return metric.compute()


def coco(name: str, candidates, references) -> tuple[np.ndarray, np.ndarray]:
    """pycocoevalcap's numbers for tokenised captions: per image [N,M], corpus [M]. It needs no Java for these three."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu as CocoBleu
    from pycocoevalcap.cider.cider import Cider as CocoCider
    from pycocoevalcap.rouge.rouge import Rouge as CocoRouge

    scorer = {"BLEU": lambda: CocoBleu(4), "ROUGE-L": CocoRouge, "CIDEr-D": CocoCider}[name]()
    truth, said = dict(enumerate(references)), {k: [c] for k, c in enumerate(candidates)}
    with contextlib.redirect_stdout(io.StringIO()):
        corpus, images = scorer.compute_score(truth, said)
    images = np.array(images, float).T if name == "BLEU" else np.array(images, float)[:, None]
    return images, np.atleast_1d(corpus)


METRICS = {"BLEU": Bleu, "ROUGE-L": RougeL, "CIDEr-D": CiderD}


@pytest.mark.parametrize("name", METRICS)
def test_fixed_numbers_of_the_reference_implementation(name: str) -> None:
    result = score(METRICS[name](), CANDIDATES, REFERENCES)
    *images, corpus = ORACLE[name]
    np.testing.assert_allclose(result.per_image, images, rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(result.values.values()), corpus, rtol=0, atol=1e-9)


def invented(seed: int, images: int) -> tuple[list[str], list[list[str]]]:
    """Sentences of few words, so that n-grams repeat within and between them; some are empty or of one word."""
    generator = random.Random(seed)
    vocabulary = WORDS[: generator.randint(2, 10)]

    def sentence(least: int) -> str:
        return " ".join(generator.choices(vocabulary, k=generator.choice([least, 1, 2, 3, 5, 8, 13, 21])))

    written = [[sentence(1) for _ in range(generator.randint(1, 6))] for _ in range(images)]
    said = [generator.choice(some) if generator.random() < 0.2 else sentence(0) for some in written]
    return said, written


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_the_reference_implementation_on_invented_sentences(name: str, seed: int) -> None:
    said, written = invented(seed, images=1 + 9 * seed)
    images, corpus = coco(name, said, written)
    result = score(METRICS[name](), said, written)
    np.testing.assert_allclose(result.per_image, images, rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(result.values.values()), corpus, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", [Bleu, RougeL, CiderD, Cider])
def test_batches_add_up_and_reset_forgets(metric: type) -> None:
    said, written = invented(3, images=40)
    whole = score(metric(), said, written)
    parts = metric()
    score(parts, said[:5], written[:5])
    parts.reset()
    for start in range(0, 40, 7):
        found = score(parts, said[start : start + 7], written[start : start + 7])
    np.testing.assert_array_equal(found.per_image, whole.per_image)
    assert found.values == whole.values


@pytest.mark.parametrize("metric", [Bleu, RougeL, CiderD, Cider])
def test_token_ids_score_as_words_do(metric: type) -> None:
    said, written = invented(4, images=30)
    ids = {word: 1000 + 7 * place for place, word in enumerate(WORDS)}
    numbers = metric()
    numbers.update(
        [[ids[w] for w in c.split()] for c in said], [[[ids[w] for w in c.split()] for c in some] for some in written]
    )
    np.testing.assert_array_equal(numbers.compute().per_image, score(metric(), said, written).per_image)


@pytest.mark.parametrize("name", METRICS)
def test_sentences_without_a_word_score_as_in_the_reference_implementation(name: str) -> None:
    said, written = ["", "", "a b"], [["a", ""], ["", ""], ["", "a b"]]
    images, _ = coco(name, said, written)
    np.testing.assert_allclose(score(METRICS[name](), said, written).per_image, images, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_token_with_a_no_break_space_counts_as_the_reference_implementation_counts_it(name: str) -> None:
    said = ["it is 1\u00a01/2 miles", "call 555\u00a01234"]
    written = [["some 1\u00a01/2 miles", "it is 1 1/2 miles"], ["call 555 1234 now"]]
    result = METRICS[name]()
    result.update([text.split(" ") for text in said], [[text.split(" ") for text in some] for some in written])
    images, corpus = coco(name, said, written)
    np.testing.assert_allclose(result.compute().per_image, images, rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(result.compute().values.values()), corpus, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", [Bleu, RougeL, CiderD, Cider])
def test_wrong_batches_are_refused(metric: type) -> None:
    with pytest.raises(ValueError, match="2 candidates, but references of 1"):
        metric().update([["a"], ["b"]], [[["a"]]])
    with pytest.raises(ValueError, match="no reference"):
        metric().update([["a"]], [[]])


@pytest.mark.parametrize("metric", [Bleu, RougeL, CiderD, Cider])
def test_text_is_refused_and_arrays_and_generators_are_taken(metric: type) -> None:
    for said, written in ((["a dog"], [[["a", "dog"]]]), ([["a", "dog"]], [["a dog"]])):
        with pytest.raises(ValueError, match="is text; metrics take tokens"):
            metric().update(said, written)
    with pytest.raises(ValueError, match="is text"):
        DocumentFrequencies.of([["a dog"]])
    rows = [[5, 7, 9, 7], [5, 1, 2, 3]]
    wanted, arrays, lazy = metric(), metric(), metric()
    wanted.update(rows, [[rows[0]], [rows[0]]])
    arrays.update(np.array(rows), np.array([[rows[0]], [rows[0]]]))
    lazy.update((iter(row) for row in rows), ([iter(rows[0])] for _ in rows))
    for other in (arrays, lazy):
        np.testing.assert_array_equal(other.compute().per_image, wanted.compute().per_image)
    rows[0].clear()  # what the metric was given may be used again
    assert wanted.compute().per_image[0, 0] == arrays.compute().per_image[0, 0]


@pytest.mark.parametrize("metric", [Bleu, RougeL, CiderD, Cider])
def test_nothing_at_all(metric: type) -> None:
    assert metric().compute().per_image.shape[0] == 0
    only_empty = score(metric(), ["", ""], [["a b"], ["c d"]])
    assert np.isfinite(only_empty.per_image).all() and (only_empty.per_image < 1e-9).all()


# --- the parts ---


def test_ngrams_are_those_of_the_definition() -> None:
    sentences = [list("abcab"), [], list("a"), list("bcabca")]
    numbered = number(sentences, {})
    for n, (starts, grams) in enumerate(ngrams(numbered), start=1):
        wanted = [tuple(s[i : i + n]) for s in sentences for i in range(len(s) - n + 1)]
        assert len(starts) == len(grams) == len(wanted)
        for (one, first), (other, second) in itertools.combinations(zip(wanted, grams, strict=True), 2):
            assert (one == other) == (first == second)


def test_counting_and_finding() -> None:
    counted = count(np.array([1, 0, 1, 1]), np.array([5, 2, 5, 0]))
    assert list(zip(counted.owners, counted.grams, counted.counts, strict=True)) == [(0, 2, 1), (1, 0, 1), (1, 5, 2)]
    places, there = find(np.array([4, 9, 1]), np.array([1, 4, 6]))
    assert there.tolist() == [True, False, True] and places[there].tolist() == [1, 0]
    assert not find(np.array([3]), np.array([], np.int64))[1].any()


def longest_common(one: str, other: str) -> int:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    generator = random.Random(0)
    for _ in range(500):
        one, other = ("".join(generator.choices("abcd", k=generator.randint(0, 90))) for _ in range(2))
        bits: dict = {}
        for place, token in enumerate(one):
            bits[token] = bits.get(token, 0) | 1 << place
        assert _common(bits, len(one), other) == longest_common(one, other)


def plain_cider(candidate: str, references: list[str], corpus: list[list[str]]) -> float:
    """CIDEr from its equations: mean over n and references of the cosine of tf-idf vectors, times ten."""

    def grams(text: str, n: int) -> list[tuple]:
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total = 0.0
    for n, reference in itertools.product(range(1, 5), references):
        seen = {g for some in corpus for text in some for g in grams(text, n)}
        documents = {g: sum(any(g in grams(text, n) for text in some) for some in corpus) for g in seen}

        def vector(text: str, n: int = n, documents: dict = documents) -> dict:
            found = grams(text, n)
            return {g: found.count(g) * math.log(len(corpus) / max(documents.get(g, 0), 1)) for g in set(found)}

        one, other = vector(candidate), vector(reference)
        norms = math.prod(math.sqrt(sum(v * v for v in vec.values())) for vec in (one, other))
        total += sum(v * other.get(g, 0) for g, v in one.items()) / norms if norms else 0
    return 10 * total / 4 / len(references)


def test_plain_cider_is_its_equations() -> None:
    said, written = invented(11, images=12)
    result = score(Cider(), said, written)
    wanted = [plain_cider(one, some, written) for one, some in zip(said, written, strict=True)]
    np.testing.assert_allclose(result.per_image[:, 0], wanted, atol=1e-9)
    assert result.names == ("CIDEr",)


def test_cider_d_gains_nothing_from_repeating_words() -> None:
    written = [["a red dog", "the red dog"], ["a cat"], ["two birds fly"]]
    once, often = (
        score(CiderD(), [text, "a cat", "birds"], written) for text in ("red dog", "red red red dog dog dog")
    )
    assert often.per_image[0, 0] < once.per_image[0, 0]


# --- document frequencies ---


@pytest.mark.slow
def test_frequencies_of_another_corpus_decide(tmp_path) -> None:
    _, corpus = invented(20, images=60)
    said, written = invented(21, images=8)
    frequencies = DocumentFrequencies.of([split(some) for some in corpus])
    wanted = [plain_cider(one, some, corpus) for one, some in zip(said, written, strict=True)]
    np.testing.assert_allclose(score(Cider(frequencies), said, written).per_image[:, 0], wanted, atol=1e-9)
    frequencies.save(tmp_path / "df.npz")
    loaded = DocumentFrequencies.load(tmp_path / "df.npz")
    assert loaded.images == 60 and list(loaded.vocabulary) == list(frequencies.vocabulary)
    np.testing.assert_allclose(score(Cider(loaded), said, written).per_image[:, 0], wanted, atol=1e-9)


def test_frequencies_of_token_ids_are_saved_as_such(tmp_path) -> None:
    frequencies = DocumentFrequencies.of([[np.array([5, 7, 5]), [7]], [[5, 9]]])
    frequencies.save(tmp_path / "df.npz")
    assert list(DocumentFrequencies.load(tmp_path / "df.npz").vocabulary) == [5, 7, 9]


@pytest.mark.parametrize("content", [b"", b"PK not really", b"\x80\x04N."])
def test_damaged_frequencies_are_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "df.npz"
    path.write_bytes(content)
    with pytest.raises(CaptionkitError, match=r"df\.npz: holds no document frequencies") as caught:
        DocumentFrequencies.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CaptionkitError, match=r"absent\.npz: cannot be read"):
        DocumentFrequencies.load(tmp_path / "absent.npz")
    frequencies = DocumentFrequencies.of([[["a", "b"]], [["b"]]])
    frequencies.counts[0] = frequencies.counts[0][:1]
    frequencies.save(path)
    with pytest.raises(CaptionkitError, match="its counts are damaged"):
        DocumentFrequencies.load(path)
    DocumentFrequencies.of([[["a", "b"]]]).save(path)
    whole = path.read_bytes()
    for place in range(30, len(whole), 7):  # no damage ends in anything else
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(CaptionkitError):
            DocumentFrequencies.load(path)
    with pytest.raises(CaptionkitError, match="only frequencies of words or token ids"):
        DocumentFrequencies.of([[[("a", "tuple")]]]).save(path)
    np.savez(path, vocabulary=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CaptionkitError, match="holds no document frequencies"):
        DocumentFrequencies.load(path)


# --- diversity ---


def test_diversity() -> None:
    diversity = Diversity(training=split(["a dog", "x y z"]))
    diversity.update(split(["a dog", "a dog", "a cat sits"]))
    diversity.update(split([""]))
    found = diversity.compute()
    assert (found.distinct, found.vocabulary, found.shortest, found.longest) == (0.75, 4, 0, 3)
    assert found.distinct_1 == 4 / 7 and found.distinct_2 == 3 / 4 and found.words == 7 / 4
    assert (found.commonest, found.commonest_images, found.novel) == ("a dog", 2, 0.5)
    assert found.warning == "" and found.to_dict()["novel"] == 0.5
    assert "novel" not in Diversity().compute().to_dict()


def test_collapse_is_warned_of() -> None:
    diversity = Diversity()
    diversity.update(split([f"caption {n}" for n in range(90)] + ["the same for all"] * 10))
    assert "given to 10 images (10%): 'the same for all'" in diversity.compute().warning


# --- resampling ---


def test_intervals_of_a_mean_are_those_of_its_normal_approximation() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(5, 2, (4000, 1))
    (interval,) = bootstrap([mean_result(("x",), values)], resamples=2000, seed=1)
    half = 1.96 * values.std() / math.sqrt(4000)
    np.testing.assert_allclose(interval[:, 0], [values.mean() - half, values.mean() + half], atol=0.01)
    (again,) = bootstrap([mean_result(("x",), values)], resamples=2000, seed=1)
    np.testing.assert_array_equal(again, interval)


def test_a_resampled_corpus_scores_what_such_a_corpus_scores() -> None:
    """The sums of a resample must be the statistics of the corpus that it stands for, BLEU's brevity and all."""
    said, written = invented(5, images=30)
    drawn = np.random.default_rng(0).integers(30, size=30)
    result = score(Bleu(), said, written)
    resampled = result.corpus(np.bincount(drawn, minlength=30) @ result.statistics)
    _, corpus = coco("BLEU", [said[i] for i in drawn], [written[i] for i in drawn])
    np.testing.assert_allclose(resampled, corpus, atol=1e-12)


def test_pairs_tell_a_small_steady_difference_from_chance() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 5, 400)
    one = mean_result(("x",), (hard + 0.2 + generator.normal(0, 0.5, 400))[:, None])
    other = mean_result(("x",), (hard + generator.normal(0, 0.5, 400))[:, None])
    interval, p = paired(one, other, resamples=1000, seed=0)
    assert 0 < interval[0, 0] < 0.2 < interval[1, 0] < 0.4 and p[0] < 0.01
    interval, p = paired(one, one, resamples=200, seed=0)
    assert (interval == 0).all() and p[0] == 1


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    generator = np.random.default_rng(0)
    found = []
    for seed in range(200):
        one, other = (mean_result(("x",), generator.normal(size=(40, 1))) for _ in range(2))
        found.append(paired(one, other, resamples=99, seed=seed)[1][0])
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.1 and 0.4 < np.mean(np.array(found) <= 0.5) < 0.6
