"""The Penn Treebank tokenizer against the original: fixed tokens, the original itself, and properties."""

from __future__ import annotations

import json
import re
import shutil
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.metrics import ptb
from captionkit.metrics.ptb.dfa import Rule, Scanner
from captionkit.metrics.ptb.regex import RegexParser
from ptb_cases import CASES, CHARACTERS, nasty


class Looked(str):
    """A text that counts how often its characters are looked at."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize(("caption", "tokens"), CASES)
def test_tokens_of_the_original(caption, tokens):
    assert ptb.tokenize(caption) == [token for token in tokens.split(" ") if token]


def test_captions_do_not_see_their_neighbours():
    """Where the original looks into the next line, or finds the end of the file, a caption here stands by itself."""
    assert ptb.tokenize_all(["a plan b.", "The end", "bus no.", "5 men"])[::2] == [["a", "plan", "b."], ["bus", "no"]]
    assert ptb.tokenize("class of '99") == ["class", "of", "'99"]
    assert ptb.tokenize("<a b='x") == ["<", "a", "b", "=", "x"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\u2028", "\u2029"])
def test_a_line_end_is_space(end):
    assert ptb.tokenize(f"a dog{end}can't{end}") == ["a", "dog", "ca", "n't"]


def test_half_a_surrogate_pair_is_no_token():
    assert ptb.tokenize("a \ud83d dog\udc36s") == ["a", "dog", "s"]


# --- the original itself


@pytest.fixture(scope="session")
def original():
    """captions -> what pycocoevalcap's tokenizer gives, in one run of Java."""
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed")
    if not shutil.which("java"):
        pytest.skip("no java on this machine")

    def tokenize(captions, neighbours=True):
        between = [] if neighbours else [{"caption": "and"}]
        lines = {number: [{"caption": caption}, *between] for number, caption in enumerate(captions)}
        # The file's last line has no end, on which some rules rest.
        tokenized = module.PTBTokenizer().tokenize({**lines, "last": [{"caption": "end"}]})
        assert tokenized.pop("last") == ["end"]
        assert all(rest == ["and"] * len(between) for _, *rest in tokenized.values())
        return [first for first, *_ in tokenized.values()]

    return tokenize


def _unequal(captions, expected):
    tokens = map(" ".join, ptb.tokenize_all(captions))
    return [case for case in zip(captions, tokens, expected, strict=True) if case[1] != case[2]]


def test_the_table_is_the_originals(original):
    assert original([caption for caption, _ in CASES], neighbours=False) == [tokens for _, tokens in CASES]


def test_the_original_sees_neighbours(original):
    captions = ["a plan b.", "The end", "bus no.", "5 men"]
    assert original(captions)[::2] == ["a plan b", "bus no."]
    assert original(captions, neighbours=False)[::2] == ["a plan b.", "bus no"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "neighbourly"),
    [
        ("reference/karpathy_test_refs.json", 1),
        ("reference/UESTC-nnLab+GAT_vis.json", 0),
        ("flickr8k/captions_train.json", 0),
        ("flickr8k/captions_val.json", 0),
        ("ucm-captions/captions_train.json", 0),
        ("ucm-captions/captions_val.json", 0),
    ],
)
def test_real_captions(original, shared, name, neighbourly):
    """Equal throughout; one after another, equal but for those of which the original sees the neighbours."""
    content = json.loads((shared / "data" / name).read_text(encoding="utf-8"))
    captions = [item["caption"] for item in (content["annotations"] if isinstance(content, dict) else content)]
    assert len(captions) >= 1000
    assert not _unequal(captions, original(captions, neighbours=False))
    assert len(_unequal(captions, original(captions))) == neighbourly


@pytest.mark.slow
def test_nasty_sentences(original):
    captions = [nasty(seed) for seed in range(8000)]
    assert not _unequal(captions, original(captions, neighbours=False))


@pytest.mark.slow
def test_every_character(original):
    """Alone, in words, numbers and addresses; without late letters, whose case Python and Java may not agree on."""
    line_ends = {0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029}
    codes = {*range(0xD800), *range(0xE000, 0x10000), *range(0x1F300, 0x1F700)} - line_ends
    characters = [chr(code) for code in sorted(codes) if code < 0x2C00 or chr(code).lower() == chr(code)]
    captions = [f"{each} a{each}b 1{each}2 {each}{each} http://x.y/{each} me@{each}.com" for each in characters]
    assert not _unequal(captions, original(captions, neighbours=False))


# --- properties

sentences = st.integers(0, 2**32).map(nasty)


@given(st.one_of(sentences, st.text(max_size=40), st.text(st.sampled_from(CHARACTERS), max_size=40)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_properties_of_tokens(caption):
    tokens = ptb.tokenize(caption)
    assert all(tokens)
    assert not any(" " in token or "\n" in token or token in ptb.PUNCTUATION for token in tokens)
    assert [token.lower() for token in tokens] == tokens
    assert ptb._tokenize_line(caption) == tokens  # words remembered by themselves give what the whole line gives
    assert ptb.tokenize(f" {caption}  ") == ptb.tokenize(f"  {caption} ")


@given(st.lists(sentences, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_many_captions_are_each_by_itself(captions, dice):
    alone = {caption: ptb.tokenize(caption) for caption in captions}
    dice.shuffle(captions)
    assert ptb.tokenize_all(iter(captions)) == [alone[caption] for caption in captions]


def test_forgetting_changes_nothing(monkeypatch):
    monkeypatch.setattr(ptb, "_REMEMBERED", 3)
    for words in (ptb._WORDS, ptb._LAST_WORDS):
        words.clear()
    for caption, tokens in CASES * 2:
        assert " ".join(ptb.tokenize(caption)) == tokens
        assert len(ptb._WORDS) <= 3


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        ".",
        "'",
        "-",
        "<",
        "&",
        "😀",
        "a,",
        "a.",
        "a@",
        "1-",
        "1 ",
        ". ",
        "A. The ",
        "a b@",
        "<a b='",
        "a:b,",
        "http://",
        "=.[^x=",
        "a's",
        "can't",
        "&amp;",
        "\u2028",
        "\xad",
        "co. ",
        "a'b",
        "1/",
        "(5",
        "a-b",
        "x.c",
    ],
)
def test_long_captions_take_linear_time(piece):
    text = Looked(ptb._ASTRAL.sub(ptb._surrogates, piece * (4_000 // len(piece)) + "\n"))
    assert list(ptb._SCANNER.scan(text))
    assert text.looks < 200 * len(text)  # the tail of a run of dead ends is walked again, for up to 64 characters each


def test_threads_share_a_new_scanner(monkeypatch):
    monkeypatch.setattr(ptb, "_SCANNER", Scanner(ptb.RULES, ptb.NAMED))
    wrong = []

    def run():
        wrong.extend(caption for caption, tokens in CASES if " ".join(ptb._tokenize_line(caption)) != tokens)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- the automaton

patterns = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "ab"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


@given(st.lists(patterns, min_size=1, max_size=4), st.text("abc", max_size=12))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_the_longest_match_of_the_first_rule(patterns, text):
    """Against `re.fullmatch` on every piece of the text."""
    rules = [Rule(pattern, write=f"{number}{{}}".format) for number, pattern in enumerate([*patterns, "[^]"])]
    expected, at = [], 0
    while at < len(text):
        ends = [end for end in range(len(text), at, -1) if any(re.fullmatch(p, text[at:end]) for p in patterns)]
        end = ends[0] if ends else at + 1
        number = next((n for n, p in enumerate(patterns) if re.fullmatch(p, text[at:end])), len(patterns))
        expected.append(f"{number}{text[at:end]}")
        at = end
    assert [spelling for spelling, _ in Scanner(rules, {}).scan(text)] == expected


def test_what_must_follow_is_no_part_of_the_token():
    scanner = Scanner([Rule("a+", before="ab?c"), Rule("[^]", write=str.upper)], {})
    assert [spelling for spelling, _ in scanner.scan("aaabcaaac")] == ["aa", "A", "B", "C", "aa", "A", "C"]


def test_whether_more_text_could_matter():
    scanner = Scanner([Rule("a"), Rule("abc"), Rule("[^]")], {})
    assert list(scanner.scan("aab")) == [("a", False), ("a", True), ("b", False)]


def test_dead_ends_are_walked_once():
    """Each "a" could begin a match that only a far "c" would complete."""
    scanner = Scanner([Rule("a"), Rule("a[ab]*c")], {})
    dead, alive = Looked("a" * 4_000), Looked("a" * 4_000 + "c")
    assert [spelling for spelling, _ in scanner.scan(dead)] == ["a"] * 4_000
    assert [spelling for spelling, _ in scanner.scan(alive)] == [alive]
    assert dead.looks < 100 * len(dead) and alive.looks < 2 * len(alive)


def test_the_notation():
    scanner = Scanner(
        [Rule(r"{ab}\u00e9\t[\]\-]"), Rule("[^]", write=lambda _: "?")], {"ab": "a|{b}", "b": ((98, 98),)}
    )
    assert [spelling for spelling, _ in scanner.scan("Aé\t]bé\t-Bé\t-")] == ["Aé\t]", "bé\t-", "?", "?", "?", "?"]
    with pytest.raises(ValueError, match=r"stray '\)' in the pattern 'a\)b'"):
        RegexParser({}).parse("a)b")
    with pytest.raises(KeyError, match="unknown"):
        RegexParser({}).parse("{unknown}")


def test_a_scanner_without_a_rule_for_the_text_says_so():
    with pytest.raises(ValueError, match="no rule matches 'bc'"):
        list(Scanner([Rule("a")], {}).scan("aabc"))
