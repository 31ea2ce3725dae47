"""The English Snowball stemmer (Porter 2), in the version of METEOR 1.5, before Snowball 3 changed it.

Source: https://snowballstem.org/algorithms/english/stemmer.html, whose names of regions and steps are used here.
"""

from __future__ import annotations

import re

_WHOLE_WORDS = {
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl", "gently": "gentl",
    "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
} | {word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")}  # fmt: skip
_KEPT_AFTER_1A = frozenset(("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"))

_V, _N = "[aeiouy]", "[^aeiouy]"
_Y_AFTER_VOWEL = re.compile(f"({_V})y")
_R1_OF_BEGINNING = re.compile("gener|commun|arsen")
_REGION = re.compile(f".*?{_V}{_N}", re.DOTALL)
_VOWEL = re.compile(_V)
_SHORT_SYLLABLE = re.compile(rf"{_N}{_V}[^aeiouywxY]\Z|\A{_V}{_N}\Z", re.DOTALL)
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")

_STEP_2 = {
    "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize", "ization": "ize",
    "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al", "alli": "al", "fulness": "ful",
    "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble", "ogi": "og",
    "fulli": "ful", "lessli": "less", "li": "",
}  # fmt: skip
_STEP_2_AFTER = {"ogi": "l", "li": "cdeghkmnrt"}
_STEP_3 = {
    "tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic",
    "ful": "", "ness": "", "ative": "",
}  # fmt: skip
_STEP_4 = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous", "ive",
    "ize", "ion",
]  # fmt: skip


def _longest(suffixes: list[str]) -> re.Pattern[str]:
    return re.compile(f"(?:{'|'.join(sorted(suffixes, key=len, reverse=True))})\\Z")


_FIND_2, _FIND_3, _FIND_4 = _longest(list(_STEP_2)), _longest(list(_STEP_3)), _longest(_STEP_4)
_FIND_0 = _longest(["'", "'s", "'s'"])
_FIND_1A = _longest(["sses", "ied", "ies", "us", "ss", "s"])
_FIND_1B = _longest(["eed", "eedly", "ed", "edly", "ing", "ingly"])


def stem(word: str) -> str:
    """Return the stem of a lower-case word."""
    if len(word) < 3:
        return word
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    word = word.removeprefix("'")
    if "y" in word:
        # A consonant "y" is written as "Y" until the end.
        word = _Y_AFTER_VOWEL.sub(r"\1Y", "Y" + word[1:] if word.startswith("y") else word)
    r1, r2 = _regions(word)
    word = _step_1a(_FIND_0.sub("", word))
    if word not in _KEPT_AFTER_1A:
        word = _step_1c(_step_1b(word, r1))
        word = _step_5(_step_4(_step_3(_step_2(word, r1), r1, r2), r2), r1, r2)
    return word.replace("Y", "y")


def _regions(word: str) -> tuple[int, int]:
    """Return the start of R1 and R2."""
    beginning = _R1_OF_BEGINNING.match(word) or _REGION.match(word)
    if not beginning:
        return len(word), len(word)
    r1 = beginning.end()
    second = _REGION.match(word, r1)
    return r1, second.end() if second else len(word)


def _step_1a(word: str) -> str:
    found = _FIND_1A.search(word)
    if not found:
        return word
    suffix, before = found.group(), word[: found.start()]
    if suffix == "sses":
        return before + "ss"
    if suffix in ("ied", "ies"):
        return before + ("i" if len(before) > 1 else "ie")
    return before if suffix == "s" and _VOWEL.search(before[:-1]) else word


def _step_1b(word: str, r1: int) -> str:
    found = _FIND_1B.search(word)
    if not found:
        return word
    suffix, before = found.group(), word[: found.start()]
    if suffix.startswith("eed"):
        return before + "ee" if found.start() >= r1 else word
    if not _VOWEL.search(before):
        return word
    if before.endswith(("at", "bl", "iz")):
        return before + "e"
    if before.endswith(_DOUBLES):
        return before[:-1]
    return before + "e" if len(before) == r1 and _SHORT_SYLLABLE.search(before) else before


def _step_1c(word: str) -> str:
    return word[:-1] + "i" if len(word) > 2 and word[-1] in "yY" and word[-2] not in "aeiouy" else word


def _step_2(word: str, r1: int) -> str:
    found = _FIND_2.search(word)
    if not found or found.start() < r1:
        return word
    suffix, before = found.group(), word[: found.start()]
    if suffix in _STEP_2_AFTER and (not before or before[-1] not in _STEP_2_AFTER[suffix]):
        return word
    return before + _STEP_2[suffix]


def _step_3(word: str, r1: int, r2: int) -> str:
    found = _FIND_3.search(word)
    if not found or found.start() < (r2 if found.group() == "ative" else r1):
        return word
    return word[: found.start()] + _STEP_3[found.group()]


def _step_4(word: str, r2: int) -> str:
    found = _FIND_4.search(word)
    if not found or found.start() < r2:
        return word
    before = word[: found.start()]
    return word if found.group() == "ion" and not before.endswith(("s", "t")) else before


def _step_5(word: str, r1: int, r2: int) -> str:
    before = word[:-1]
    if word.endswith("e"):
        removed = len(before) >= r2 or (len(before) >= r1 and not _SHORT_SYLLABLE.search(before))
    else:
        removed = word.endswith("ll") and len(before) >= r2
    return before if removed else word
