"""Parsing of the values that caption files use for captions: a text, a list, an object with one, a printed list."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence

from captionkit.data.layouts.caption_set import Problem
from captionkit.data.layouts.reading import decoded

CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "description", "comment")
"""What captions are called in a table or an object, the likeliest first."""

TEXTS = (".txt", ".caption")
"""The endings of files that hold the captions of one image, one a line."""

SIDECARS = (*TEXTS, ".json")
"""The endings of files that hold the captions of the one image beside them."""

MAX_CAPTIONS = 1 << 20
"""The largest such file that is read, 1 MiB."""

# Written by pandas, Excel, databases and JavaScript for a missing value.
_MISSING = frozenset(("nan", "none", "null", "<na>", "na", "n/a", "#n/a", "nat", "undefined"))

_SHOWN = 60  # characters of a caption in a message

# A caption may begin with a bracket, "[sic]"; a bracket and a quote begin a list printed by Python, JSON or numpy.
_LIST_START = re.compile(r"(?:array\()?\s*[\[(]\s*(?=[uUrbB]?['\"]|\{)")
_LIST_END = re.compile(r"['\"}]\s*,?\s*[\])]\s*(?:,\s*dtype=\S+\s*)?\)?\s*$")
_LIST_MIDDLE = re.compile(r"['\"]\s*,\s*['\"]")
_LETTER = re.compile(r"[^\W\d_]")
_OBJECT_START = re.compile(r"\{\s*(['\"])[A-Za-z_]+\1\s*:")
_QUOTED = re.compile(r"[uU]?(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")", re.DOTALL)
_BETWEEN = re.compile(r"\s*,\s*|\s+")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\n": ""}


def is_missing(text: str) -> bool:
    """Return whether a text stands for a missing value, such as the "nan" that pandas writes for an empty cell."""
    return text.strip().casefold() in _MISSING


def shown(value: object) -> str:
    """Return the beginning of a caption, or of whatever is in its place, for a message."""
    if isinstance(value, str):
        return ascii(value[:_SHOWN])[:_SHOWN]
    return ascii(reprlib.repr(value))[1:-1][:_SHOWN]


def texts_of(value: object) -> list[object]:
    """Return the captions in one stated value: itself, the items of a printed list, or the captions in an object.

    A value that is not a caption is returned as is. Raises ValueError for a text that looks like a printed list but
    cannot be parsed.
    """
    if isinstance(value, dict):
        value = _within(value)
        if isinstance(value, list):
            return list(value)
    return _listed(value) if isinstance(value, str) else [value]


def captions_of_file(content: bytes, ending: str) -> list[object]:
    """Return the captions in a file beside an image: one per line, or JSON.

    `ending` is one of SIDECARS. Raises ValueError saying what is wrong.
    """
    try:
        text = decoded(content)
        value = json.loads(text) if ending == ".json" else None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from None
    if ending != ".json":
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and not any(map(_LETTER.search, lines)):
            raise ValueError("numbers, such as boxes of objects, and no captions")
        return list(lines)
    if isinstance(value, dict):
        value = next((value[name] for name in CAPTION_COLUMNS if value.get(name)), [])
    return value if isinstance(value, list) else [value]


def holds_captions(value: object) -> bool:
    """Return whether a JSON `value` can be the captions of one image: a text, an object, or a list of these."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) or (isinstance(item, dict) and _within(item) is not item) for item in items)


def checked_captions(stated: Sequence[object], file_name: str, source: str) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the usable captions, each on one line and stripped, and the problems of the rest."""
    captions: list[str] = []
    problems: list[Problem] = []
    for number, caption in enumerate(stated, 1):
        where = f"{source}: caption {number} of {len(stated)} is {shown(caption)}"
        try:
            texts = texts_of(caption)
        except ValueError:
            problems.append(Problem("malformed caption", file_name, f"{where}, a list that cannot be read"))
            continue
        for text in texts:
            line = " ".join(text.split()) if isinstance(text, str) and _encodable(text) else None
            if line and not is_missing(line):
                captions.append(line)
            elif line:
                problems.append(Problem("empty caption", file_name, f"{where}, which stands for a missing value"))
            else:
                empty = line == "" or text is None or text != text  # the last is NaN
                problems.append(Problem("empty caption" if empty else "malformed caption", file_name, where))
        if not texts:
            problems.append(Problem("empty caption", file_name, where))
    return tuple(captions), problems


def _within(value: dict[object, object]) -> object:
    """Return the captions in an object; the object itself if it has none."""
    for name in ("raw", *CAPTION_COLUMNS):
        if value.get(name) is not None:
            return value[name]
    tokens = value.get("tokens")
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    return value


def _listed(text: str) -> list[object]:
    plain = text.strip()
    if re.fullmatch(r"\[\s*\]", plain):
        return []
    start, printed_object = _LIST_START.match(plain), _OBJECT_START.match(plain)
    listed = start and (_LIST_END.search(plain[-200:]) or (plain[0] == "[" and _LIST_MIDDLE.search(plain)))
    if not listed and not printed_object:
        return [text]
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError):
        return _printed(plain, start.end() if start else 0)
    items = value if isinstance(value, list) else [value]
    return [item for one in items for item in (texts_of(one) if isinstance(one, dict) else [one])]


def _printed(text: str, place: int) -> list[object]:
    """Parse the texts of a list as printed by Python, or by numpy, which omits the commas. Raises ValueError."""
    captions: list[object] = []
    while quoted := _QUOTED.match(text, place):
        content = quoted[1] if quoted[1] is not None else quoted[2]
        captions.append(_ESCAPE.sub(_unescaped, content))
        between = _BETWEEN.match(text, quoted.end())
        place = between.end() if between else quoted.end()
        if not between:
            break
    if not captions or not re.fullmatch(r"\s*[\])](\s*,\s*dtype=\S+)?\s*\)?\s*", text[place:]):
        raise ValueError("not a list that can be read")
    return captions


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate, such as "\ud83d" in JSON
        return False
    return True
