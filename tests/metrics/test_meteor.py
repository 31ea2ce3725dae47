"""METEOR without Java: each part with small tables of its own, then the whole against METEOR 1.5 itself."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from captionkit.errors import CaptionkitError
from captionkit.metrics.meteor import Meteor, data_missing, table
from captionkit.metrics.meteor.aligner import BEAM, align
from captionkit.metrics.meteor.data import Tables, data_folder, jar_of, paraphrases_of, read_tables
from captionkit.metrics.meteor.lexicon import Lexicon, java_hash
from captionkit.metrics.meteor.matches import (
    EXACT,
    PARAPHRASE,
    STEM,
    SYNONYM,
    Sentence,
    make_match,
    parts_of,
    possible_matches,
)
from captionkit.metrics.meteor.normalizer import normalize
from captionkit.metrics.meteor.paraphrases import Paraphrases
from captionkit.metrics.meteor.stemmer import stem

# candidate, references, and what METEOR 1.5 gives (-stdio -l en -norm)
ORACLE = (
    ("a small boat drifts on the lake", ["a small boat drifts on the lake"], 1.0),
    ("a small boat drifts on the lake", ["on the lake drifts a small boat"], 0.493527472093534),
    ("dogs jump", ["dog jumped"], 0.0),
    ("two dogs were jumping over logs", ["a dog jumps over the log"], 0.11145625447187593),
    ("wolves and bikes", ["wolf and bicycle"], 0.8285714285714286),
    ("a youngster rides his bicycle", ["a boy rides his bike", "the child is on a bicycle"], 0.32134140899683716),
    ("the two are in front of a large number of houses", ["both stand before many houses"], 0.2615198652998171),
    ("people take part in a race in order to win", ["people participate in a race to win"], 0.4661747465889294),
    ("the of and a in", ["the of and a on"], 0.4362280240375045),
    ("a man", ["a man in a red coat walks along a muddy path with his two dogs"], 0.07089716690498336),
    ("a man in a red coat walks along a muddy path with his two dogs", ["a man"], 0.2373513848558139),
    (
        "a cat on a mat and a hat on a cat by a mat",
        ["a hat and a cat by a mat on a mat with a cat on a hat"],
        0.4192799762918518,
    ),
    ("a black-and-white photo of a t-shirt", ["a black and white photo of t shirts"], 0.5047266393822366),
    ("the u.s. flag at dr. smith 's house .", ["the us flag at the house of dr. smith"], 0.43811838253734087),
    ("wait ... 3,000 people , it 's no. 5 !", ["wait for 3,000 people - it is no . 5"], 0.3565632489270856),
    ("un café ñandú 日本 -- rock'n'roll", ["un café , 日 本 rock 'n'roll"], 0.3008348331279253),
    ("", ["a dog runs"], 0.0),
    ("a dog runs", [""], 0.0),
    ("", [""], 0.0),
    ("zebras graze", ["a clock ticks", "an owl"], 0.0),
    ("a dog runs", ["a cat sat", "a dog runs", "the dog runs"], 1.0),
    ("a a a a a a a a b a a a", ["a a b a a a a a a a a a a"], 0.5474647947689384),
    (
        "a b c d b a c a d b c a b d c d a b c d c b a d b c",  # more alignments than the beam holds
        ["b a d c a b c d d c b a a c b d b b a c d a c d b a"],
        0.4562801656072684,
    ),
    ("a dog ||| runs", ["a dog runs fast ||| a dog"], 0.4293659883346746),
    ("a, ||| ,b we participate in it", ["a , b we take part in it"], 0.3234225655484562),
    ("gelato", ["variants"], 1.0),  # words that METEOR takes for the same
)
ORACLE_CORPUS = 0.36924223531277706

# line -> what METEOR 1.5's Normalizer makes of it
NORMALISED = {
    "a t-shirt and a man 's x-ray": "a t shirt and a man ' s x ray",
    "he does n't like rock'n'roll or o'clock": "he does n 't like rock 'n'roll or o 'clock",
    "dr. smith of the u.s. sits here .": "dr. smith of the us sits here .",
    "it ends . then a jet vs. a kite": "it ends . then a jet vs. a kite",
    "No. 7 and No. Way": "no. 7 and no . way",
    "art. 5 and no. 7 but no. way and pp. x": "art . 5 and no . 7 but no. way and pp. x",
    "wait ... what .. is that ....": "wait ... what .. is that ....",
    "3,000 people , 3, 4 ,5 and a,b": "3,000 people , 3 , 4 , 5 and a , b",
    "the `` best '' boy ’ s “ toy ” – or -- no": 'the " best " boy \' s " toy " - or - no',
    "10 's and 5's of 'em": "10 ' s and 5 's of ' em",
    "'tis the boys' toy , it 's": "' tis the boys ' toy , it ' s",
    "50% off & $ 5 #1 @home": "50 % off & $ 5 # 1 @ home",
    "a - b -c d- e": "a - b -c d- e",
    "café ñandú Привет 日本 ΟΔΟΣ": "café ñandú привет 日 本 ο δ ο σ",
    "tab\tand\u2003wide\u00a0space\x0b\x1f": "tab and wide space",
    "a.b.c. d. E": "abc d . e",
    "": "",
}
# word -> what the jar's englishStemmer makes of it
STEMS = {
    "skies": "sky", "dying": "die", "news": "news", "herring": "herring", "exceeding": "exceed", "'tis": "tis",
    "dog's": "dog", "boys'": "boy", "generously": "generous", "communism": "communism", "yes": "yes",
    "boyish": "boyish", "sayyid": "sayyid", "ties": "tie", "cries": "cri", "gas": "gas", "kiwis": "kiwi",
    "hopping": "hop", "hoping": "hope", "falling": "fall", "fizzed": "fizz", "conflated": "conflat",
    "agreed": "agre", "feed": "feed", "national": "nation", "vietnamization": "vietnam", "radically": "radic",
    "archaeologist": "archaeologist", "happily": "happili", "sadly": "sad", "formative": "format", "cease": "ceas",
    "adoption": "adopt", "controller": "control", "rate": "rate", "bed": "bed", "be": "be", "added": "ad",
    "réunion": "réunion",
}  # fmt: skip

PARAPHRASES = (
    ("take part", "participate"),
    ("take part", "play a role"),
    ("participate", "take part"),
    ("a lot of", "many"),
    ("in front of the house", "outside"),
)


def write_data(folder: Path, paraphrases=PARAPHRASES) -> Path:
    """A folder that looks like an installed pycocoevalcap, with small tables of its own."""
    meteor = folder / "pycocoevalcap" / "meteor"
    (meteor / "data").mkdir(parents=True)
    (meteor.parent / "__init__.py").write_text("raise AssertionError('pycocoevalcap was imported')")
    with zipfile.ZipFile(meteor / "meteor-1.5.jar", "w") as jar:
        jar.writestr("function/english.words", "the\na\nof\n")
        jar.writestr("nonbreaking/english.prefixes", "# titles\nDr\n\nNo #NUMERIC_ONLY# \n")
        jar.writestr("synonym/english.synsets", "cat\n00000001 00000002\nkitty\n00000002\ngoose\n00000003\n")
        jar.writestr("synonym/english.exceptions", "goose\ngeese geeses\n")
    records = "".join(f"0.1\n{said}\n{otherwise}\n" for said, otherwise in paraphrases)
    (meteor / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(records.encode()))
    return meteor


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """METEOR finds the small tables, and an empty cache."""
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    return write_data(tmp_path)


@pytest.fixture(scope="module")
def meteor(tmp_path_factory) -> Meteor:
    """METEOR with its real data, for tests that begin with `reset`."""
    if data_missing():
        pytest.skip(f"METEOR's data is not here: {data_missing()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Meteor()


@pytest.fixture
def java():
    """coco-caption's METEOR, scoring candidates and references given as tokens."""
    if not shutil.which("java"):
        pytest.skip("METEOR 1.5 needs Java")
    oracle = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()

    def scores(candidates, references) -> tuple[float, np.ndarray]:
        said = {i: [" ".join(tokens)] for i, tokens in enumerate(candidates)}
        written = {i: [" ".join(tokens) for tokens in some] for i, some in enumerate(references)}
        corpus, each = oracle.compute_score(written, said)
        return corpus, np.array(each)

    return scores


def split(cases) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Candidates and references of cases as tokens."""
    return [case[0].split() for case in cases], [[line.split() for line in case[1]] for case in cases]


def scored(metric: Meteor, candidates, references):
    metric.reset()
    metric.update(candidates, references)
    return metric.compute()


# --- the parts


@pytest.mark.parametrize("line", NORMALISED)
def test_normaliser(line):
    prefixes = {"dr": False, "vs": False, "pp": True, "No": True}
    assert " ".join(normalize(line, prefixes)) == NORMALISED[line]


@pytest.mark.parametrize("word", STEMS)
def test_stemmer(word):
    assert stem(word) == STEMS[word]


def test_words_share_synsets_through_their_bases():
    tables = Tables(
        frozenset({"of"}), {}, {"cat": "1 2", "glass": "3", "goose": "4", "fly": "5", "glas": "6"}, {"geese": ["goose"]}
    )
    lexicon = Lexicon(tables)
    synsets = {word: set(lexicon[word].synsets) for word in ("cat", "cats", "geese", "flies", "glass", "glas", "of")}
    assert synsets == {
        "cat": {"1", "2"},
        "cats": {"1", "2"},
        "geese": {"4"},
        "flies": {"5"},
        "glass": {"3"},
        "glas": {"6"},
        "of": set(),
    }
    assert lexicon["of"].is_function_word and not lexicon["cat"].is_function_word
    assert lexicon["cats"] is lexicon["cats"]


def test_words_are_compared_as_java_hashes_them():
    assert java_hash("") == 0 and java_hash("hello") == 99162322  # "hello".hashCode()
    assert java_hash("variants") == java_hash("gelato")
    assert java_hash("😀") == 31 * 0xD83D + 0xDE00


def random_matches(generator: random.Random) -> list[list]:
    """Possible matches of a short reference with a short candidate, many of them of several words."""
    ours, theirs = generator.randint(1, 7), generator.randint(1, 7)
    matches: list[list] = [[] for _ in range(theirs)]
    for _ in range(generator.randint(0, 7)):
        place, start = generator.randrange(theirs), generator.randrange(ours)
        module = generator.choice((EXACT, EXACT, STEM, SYNONYM, PARAPHRASE, PARAPHRASE, PARAPHRASE))
        length, reference_length = 1, 1
        if module == PARAPHRASE:
            length, reference_length = (generator.randint(1, min(3, left)) for left in (ours - start, theirs - place))
        matches[place].append(make_match(module, start, length, reference_length))
    return matches


def cells(place: int, match) -> set[tuple[str, int]]:
    """The words on both sides that a match covers."""
    ours = {("candidate", i) for i in range(match.start, match.start + match.length)}
    return ours | {("reference", j) for j in range(place, place + match.reference_length)}


def all_alignments(matches) -> list[list]:
    """Every set of matches without overlap that has all those which nothing else overlaps."""
    possible = [(place, match) for place, here in enumerate(matches) for match in here]
    covered = Counter(cell for place, match in possible for cell in cells(place, match))
    sure = [pair for pair in possible if all(covered[cell] == 1 for cell in cells(*pair))]
    found: list[list] = [[]]
    for pair in possible:
        longer = [[*chosen, pair] for chosen in found if not any(cells(*pair) & cells(*other) for other in chosen)]
        found = longer if pair in sure else found + longer
    return found


def rank(alignment) -> tuple[int, int]:
    """Minus the weight, with each match's share of both sides rounded down, and the number of chunks."""
    weight = sum(
        int(size * (1.0 if match.module == EXACT else 0.5))
        for _, match in alignment
        for size in (match.length, match.reference_length)
    )
    following = {(place + m.reference_length, m.start + m.length) for place, m in alignment}
    return -weight, sum((place, match.start) not in following for place, match in alignment)


def test_aligner_finds_the_best_of_all_alignments():
    generator = random.Random(0)
    sizes = []
    while len(sizes) < 1500:
        matches = random_matches(generator)
        every = all_alignments(matches)
        if len(every) > BEAM:
            continue
        sizes.append(len(every))
        placed, chunks = align(matches)
        assert sorted(placed) in [sorted(alignment) for alignment in every]
        assert rank(placed) == min(map(rank, every))
        assert chunks == rank(placed)[1]
    assert max(sizes) > 20 and sum(size > 1 for size in sizes) > 100


def test_aligner_prefers_near_words_among_equals():
    # "a x a" against "a": the first of the two is as good, and nearer.
    assert align([[make_match(EXACT, 0), make_match(EXACT, 2)]]) == ([(0, make_match(EXACT, 0))], 1)
    # "x a b" against "b x a": keeping "x a" together makes two chunks.
    whole = [[make_match(EXACT, 2)], [make_match(EXACT, 0)], [make_match(EXACT, 1)]]
    assert align(whole)[1] == 2
    # A phrase for two words, and the word after them, are one chunk.
    phrase, word = make_match(PARAPHRASE, 0, 1, 2), make_match(EXACT, 1)
    assert align([[phrase], [], [word]]) == ([(0, phrase), (2, word)], 1)
    assert align([]) == ([], 0)


@pytest.mark.parametrize("block", [5, 7, 64, 1 << 16])
def test_paraphrases_of_sentences(small, monkeypatch, block):
    monkeypatch.setattr(table, "_BLOCK", block)  # compressed or not, records cross the blocks that are read
    paraphrases = Paraphrases(table.build_table(small / "data" / "paraphrase-en.gz"))
    sentences = ["they take part in a lot of", "", "front of", "unknown participate", "in front of the house"]
    spelt = [paraphrases.spell(line.split()) for line in sentences]
    assert [len(line) for line in spelt] == [7, 0, 2, 2, 5]
    found = [
        [(phrase.start, phrase.length, paraphrases.in_order(phrase.row)) for phrase in some]
        for some in paraphrases.phrases(spelt)
    ]
    spell = {text: paraphrases.spell(text.split()) for _, text in PARAPHRASES}
    take_part = [spell["participate"], spell["play a role"]]
    assert found == [
        [(1, 2, take_part), (4, 3, [spell["many"]])],
        [],
        [],
        [(1, 1, [spell["take part"]])],
        [(0, 5, [spell["outside"]])],
    ]
    assert paraphrases.phrases([]) == []


def test_an_empty_table(tmp_path):
    path = tmp_path / "empty.gz"
    path.write_bytes(gzip.compress(b""))
    paraphrases = Paraphrases(table.build_table(path))
    assert paraphrases.phrases([paraphrases.spell(["a", "dog"])]) == [[]]


def test_matchers_keep_their_order(small):
    lexicon = Lexicon(read_tables(jar_of(small)))
    paraphrases = Paraphrases(table.build_table(paraphrases_of(small)))

    def sentence(text: str) -> Sentence:
        spelt = paraphrases.spell(text.split())
        (phrases,) = paraphrases.phrases([spelt])
        return Sentence([lexicon[word] for word in text.split()], spelt, phrases, parts_of(spelt, table.LONGEST))

    said, written = sentence("cats participate cat participate kitty"), sentence("cat take part")
    twice = [make_match(PARAPHRASE, start, 1, 2) for start in (1, 3)]
    synonyms = [make_match(SYNONYM, 0), make_match(SYNONYM, 4)]
    assert possible_matches(said, written, paraphrases) == [
        [make_match(EXACT, 2), make_match(STEM, 0), *synonyms],
        [*twice, *twice],  # "take part" said otherwise, then each "participate"
        [],
    ]
    # The same words match only exactly.
    assert possible_matches(sentence("cats cat"), sentence("cats cat"), paraphrases) == [
        [make_match(EXACT, 0)],
        [make_match(EXACT, 1)],
    ]


# --- the whole, with small tables


def test_statistics_and_score(small):
    metric = Meteor()
    said = ["the cat sat", "we participate", "a goose of geese", "the cat", "we play a role", "no role"]
    written = ["the kitty sat", "we take part", "goose a of the", "sat the cat", "we take part", "cat part"]
    metric.update([line.split() for line in said], [[line.split()] for line in written])
    result = metric.compute()
    #     words fun.  exact      stem       synonym    paraphrase chunks, words matched
    assert result.statistics.tolist() == [
        [3, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 3, 3],
        [2, 3, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 2, 3],
        [4, 4, 2, 3, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3],
        [2, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2],
        [4, 3, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 1, 0, 0, 4, 3],
        [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    share = (0.75 * (1 + 0.8) + 0.25) / (0.75 * 2 + 0.25)  # content words twice exact and synonym, "the" exact
    assert result.per_image[0, 0] == pytest.approx(share, abs=1e-12)
    recall = (0.75 + 0.25) / (0.75 * 2 + 0.25)
    penalty = 0.6 * (1 / 2) ** 0.2
    assert result.per_image[3, 0] == pytest.approx((1 - penalty) / (0.15 + 0.85 / recall), abs=1e-12)
    assert result.per_image[5, 0] == 0
    assert result.names == ("METEOR",) and result.per_image.shape == (6, 1)
    assert "pycocoevalcap" not in sys.modules


def test_corpus_score_comes_from_sums(small):
    metric = Meteor()
    metric.update([["the", "cat"], ["cat"]], [[["the", "cat", "sat"]], [["kitty"]]])
    result = metric.compute()
    weights = np.array([[1, 1], [2, 0], [0, 2], [0, 0]])
    scores = result.corpus(weights @ result.statistics)
    assert scores.shape == (4, 1)
    assert scores[1:, 0] == pytest.approx([*result.per_image[:, 0], 0], abs=1e-12)
    assert result.values["METEOR"] == pytest.approx(scores[0, 0], abs=0)
    assert scores[0, 0] != pytest.approx(result.per_image.mean(), abs=1e-3)


def test_the_first_of_the_best_references_counts(small):
    metric = Meteor()
    references = [["dog", "sat"], ["the", "cat"], ["cat", "the", "the"]]
    metric.update([["the", "cat"]], [references])
    assert metric.compute().statistics[0, :2].tolist() == [2, 2]
    metric.reset()
    metric.update([["of"]], [[["cat", "sat", "sat"], ["cat"]]])
    assert metric.compute().statistics[0, :2].tolist() == [1, 3]  # nothing matches: the first


def test_nothing_yet_and_forgetting(small):
    metric = Meteor()
    empty = metric.compute()
    assert empty.per_image.shape == (0, 1) and empty.values == {"METEOR": 0.0}
    metric.update([["cat"]], [[["cat"]]])
    assert metric.compute().values == {"METEOR": 1.0}
    metric.reset()
    assert metric.compute().per_image.shape == (0, 1)
    metric.update([], [])
    assert metric.compute().per_image.shape == (0, 1)


def test_what_does_not_belong_together(small):
    metric = Meteor()
    with pytest.raises(ValueError, match="1 candidates, but references of 2 images"):
        metric.update([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="no reference"):
        metric.update([["a"]], [[]])
    assert metric.compute().per_image.shape == (0, 1)


# --- the data, the cache


def test_missing_data_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CaptionkitError, match=r"^METEOR needs .*; pip install 'captionkit\[meteor\]'$") as caught:
        Meteor()
    assert data_missing() == str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone_is_named(small):
    assert data_missing() == ""
    (small / "meteor-1.5.jar").unlink()
    with pytest.raises(CaptionkitError, match=r"meteor-1.5.jar: is missing; pip install 'captionkit\[meteor\]'"):
        Meteor()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_archive_is_named(small, content):
    (small / "meteor-1.5.jar").write_bytes(content)
    with pytest.raises(CaptionkitError, match=r"meteor-1.5.jar: cannot be read \(.*\); pip install"):
        Meteor()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense, but longer",
        gzip.compress(b"0.1\na\nb\n" * 1000)[:-9] + b"\0",
        gzip.compress(b"0.1\na\nb\n0.1\na"),
        gzip.compress(b"0.1\na\nb\n0.1\nb\nc\n0.1\na\nc\n"),  # a phrase at two places
        gzip.compress(b"0.1\na b c d e f g h\nb\n"),
    ],
    ids=["empty", "no archive", "cut", "a record cut", "a phrase at two places", "a long phrase"],
)
def test_a_damaged_table_is_named(small, content):
    path = small / "data" / "paraphrase-en.gz"
    path.write_bytes(content)
    with pytest.raises(CaptionkitError, match=r"paraphrase-en\.gz: cannot be read \(.*\); pip install") as caught:
        Meteor()
    assert "\n" not in str(caught.value)


def test_the_table_is_built_once(small, monkeypatch):
    source = small / "data" / "paraphrase-en.gz"
    built = table.load_table(source)
    with monkeypatch.context() as patch:
        patch.setattr(table, "build_table", lambda source: pytest.fail("built again"))
        again = table.load_table(source)
    assert again.keys() == built.keys()
    assert all(np.array_equal(again[name], built[name]) for name in built)
    # Another content is another table.
    source.write_bytes(gzip.compress(b"0.1\nmany\na lot of\n"))
    assert len(table.load_table(source)["starts"]) == 2


def test_a_damaged_index_is_rebuilt(small):
    source = small / "data" / "paraphrase-en.gz"
    built = table.load_table(source)
    (path,) = (small.parents[1] / "cache" / "meteor").glob("*.npz")
    whole = path.read_bytes()
    generator = random.Random(0)
    damaged = [b"", b"nonsense", whole[: len(whole) // 2], whole[:-1]]
    for _ in range(200):
        place = generator.randrange(len(whole))
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        loaded = table.load_table(source)
        assert all(np.array_equal(loaded[name], built[name]) for name in built)
    path.write_bytes(damaged[2])
    table.load_table(source)
    assert len(path.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_done_without(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "file"))
    metric = Meteor()
    metric.update([["we", "participate"]], [[["we", "take", "part"]]])
    assert metric.compute().statistics[0, 16:18].tolist() == [1, 2]


# --- the whole, with METEOR's own data


@pytest.mark.slow
def test_numbers_of_meteor(meteor):
    result = scored(meteor, *split(ORACLE))
    assert result.per_image[:, 0] == pytest.approx([score for _, _, score in ORACLE], abs=1e-9)
    assert result.values["METEOR"] == pytest.approx(ORACLE_CORPUS, abs=1e-9)


@pytest.mark.slow
def test_batches_make_no_difference(meteor):
    candidates, references = split(ORACLE)
    together = scored(meteor, candidates, references)
    meteor.reset()
    for first in range(0, len(candidates), 5):
        meteor.update(candidates[first : first + 5], references[first : first + 5])
        meteor.compute()
    apart = meteor.compute()
    assert np.array_equal(apart.statistics, together.statistics)
    assert np.array_equal(apart.per_image, together.per_image)


@pytest.mark.slow
def test_equal_to_java_on_coco(meteor, java, shared):
    stored = json.loads((shared / "data/reference/karpathy_test_refs.json").read_text(encoding="utf-8"))
    said = json.loads((shared / "data/reference/UESTC-nnLab+GAT_vis.json").read_text(encoding="utf-8"))
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    chosen = {entry["image_id"]: [entry] for entry in said[:800]}
    written: dict[int, list] = {known: [] for known in chosen}
    for entry in stored["annotations"]:
        if entry["image_id"] in written:
            written[entry["image_id"]].append(entry)
    chosen = {known: entry for known, entry in chosen.items() if written[known]}
    assert len(chosen) >= 500
    candidates = [lines[0].split() for lines in tokenizer.tokenize(chosen).values()]
    references = [
        [line.split() for line in lines] for lines in tokenizer.tokenize({k: written[k] for k in chosen}).values()
    ]
    corpus, each = java(candidates, references)
    result = scored(meteor, candidates, references)
    assert np.abs(result.per_image[:, 0] - each).max() < 1e-9
    assert result.values["METEOR"] == pytest.approx(corpus, abs=1e-9)


NASTY_TEXT = """
u.s. u.s.a. dr. mr. no. No. Art. 5 pp. v. e.g. ... .. .... . 's ' '' ` `` n't 're o'clock t-shirt x-ray - -- – ||| || |
3,000 3, , ,5 ,, a,b 10.5 1. don't 5's 80's ’ ‘ “ ” é ß İ I DOTMULTI running runs runner men women wolves skies dying
日本 日 한국 & $ % # @ a.b a.b.c. ..a -a a- -.- .-a 1-2 'tis Σας ΟΔΟΣ 😀 ?? ??? variants gelato ﬁ a the of in on man dog
dogs bicycle bike child kid many several lot take part participate boy youngster front before
"""
NASTY = (*NASTY_TEXT.split(), "\u00a0", "\u2003", "\u3000", "\x0b", "\x1f", "x\x1fy", "\u0085")


# what METEOR's table says in other words
PHRASES = (
    ("take part", "participate"),
    ("a lot of", "many"),
    ("in front of", "before"),
    ("in order to", "to"),
    ("a large number of", "many"),
    ("children", "kids"),
)


def nasty_sentence(generator: random.Random) -> list[str]:
    words = generator.choice((NASTY, NASTY, ("a", "the", "dog", "dogs", "on"), tuple("abcd")))
    return [generator.choice(words) for _ in range(generator.choice((0, 1, 2, 3, 5, 8, 12, 25)))]


def varied(generator: random.Random, tokens: list[str]) -> list[str]:
    """The sentence with some words moved, removed or said twice."""
    tokens = list(tokens)
    for _ in range(generator.randint(0, 4)):
        if tokens:
            word = tokens.pop(generator.randrange(len(tokens)))
            place = generator.randint(0, len(tokens))
            tokens[place:place] = generator.choice(([word], [], [word, word]))
    return tokens


def nasty_pair(generator: random.Random) -> tuple[list[str], list[list[str]]]:
    """A candidate and one to four references."""
    if generator.random() < 0.3:
        words = [(word, word) for word in ("dogs", "we", "people", "the")]
        pairs = [generator.choice((*PHRASES, *words)) for _ in range(generator.randint(1, 6))]
        sides = generator.choice(((0, 1), (1, 0)))
        said, otherwise = (" ".join(pair[side] for pair in pairs).split() for side in sides)
        return said, [otherwise, varied(generator, otherwise)]
    said = nasty_sentence(generator)
    some = range(generator.randint(1, 4))
    return said, [varied(generator, said) if generator.random() < 0.7 else nasty_sentence(generator) for _ in some]


@pytest.mark.slow
def test_equal_to_java_on_nasty_sentences(meteor, java):
    generator = random.Random(0)
    candidates, references = zip(*(nasty_pair(generator) for _ in range(600)), strict=True)
    corpus, each = java(candidates, references)
    assert 0.2 < each.mean() < 0.9
    result = scored(meteor, candidates, references)
    differing = np.flatnonzero(np.abs(result.per_image[:, 0] - each) > 1e-9)
    assert not len(differing), [(candidates[i], references[i], result.per_image[i], each[i]) for i in differing[:3]]
    assert result.values["METEOR"] == pytest.approx(corpus, abs=1e-9)


STEMMER = """
public class Stems {
    public static void main(String[] arguments) throws Exception {
        org.tartarus.snowball.ext.englishStemmer stemmer = new org.tartarus.snowball.ext.englishStemmer();
        java.io.PrintStream out = new java.io.PrintStream(System.out, false, "UTF-8");
        java.util.Scanner in = new java.util.Scanner(System.in, "UTF-8").useDelimiter("\\n");
        while (in.hasNext()) {
            stemmer.setCurrent(in.next());
            stemmer.stem();
            out.print(stemmer.getCurrent() + "\\n");
        }
        out.flush();
    }
}
"""


@pytest.mark.slow
def test_stems_are_those_of_the_archive(meteor, tmp_path):
    if not (shutil.which("java") and shutil.which("javac")):
        pytest.skip("the archive's stemmer needs a Java development kit")
    jar = jar_of(data_folder())
    (tmp_path / "Stems.java").write_text(STEMMER, encoding="utf-8")
    subprocess.run(["javac", "-cp", jar, "-d", tmp_path, tmp_path / "Stems.java"], check=True)
    vocabulary = table.vocabulary(table.build_table(paraphrases_of(data_folder())))
    synonyms = (word for words in read_tables(jar).synsets for word in words.split("_") if word)
    words = sorted({*vocabulary, *synonyms})
    run = subprocess.run(
        ["java", "-cp", os.pathsep.join(map(str, (jar, tmp_path))), "Stems"],
        input="\n".join(words).encode(),
        capture_output=True,
        check=True,
    )
    expected = run.stdout.decode().split("\n")[:-1]
    assert len(expected) == len(words) > 80_000
    differing = [pair for pair in zip(words, expected, strict=True) if stem(pair[0]) != pair[1]]
    assert not differing
