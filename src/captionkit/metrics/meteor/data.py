"""METEOR's data files, from an installed pycocoevalcap, which is located but never imported.

Synonyms (WordNet), function words and abbreviations are in meteor-1.5.jar, paraphrases in a file beside it.
"""

from __future__ import annotations

import importlib.util
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from captionkit.errors import CaptionkitError

_INSTALL = "pip install 'captionkit[meteor]'"
_MEMBERS = (
    "function/english.words",
    "nonbreaking/english.prefixes",
    "synonym/english.synsets",
    "synonym/english.exceptions",
)


@dataclass(frozen=True)
class Tables:
    """METEOR's small tables for English.

    synsets: word -> numbers of its WordNet synsets. bases: inflected word -> its possible base forms.
    """

    function_words: frozenset[str]
    prefixes: dict[str, bool]
    synsets: dict[str, str]
    bases: dict[str, list[str]]


def data_folder() -> Path:
    """Return the folder with meteor-1.5.jar and data/paraphrase-en.gz. Raises CaptionkitError if there is none."""
    reason = data_missing()
    if reason:
        raise CaptionkitError(reason)
    return _folders()[0]


def data_missing() -> str:
    """Return why METEOR cannot be computed, in one sentence; "" if it can."""
    folders = _folders()
    if not folders:
        return f"METEOR needs the data files that pycocoevalcap brings, which is not installed; {_INSTALL}"
    needed = (jar_of(folders[0]), paraphrases_of(folders[0]))
    lost = [path for path in needed if not path.is_file()]
    return f"{lost[0]}: is missing; {_INSTALL} --force-reinstall" if lost else ""


def jar_of(folder: Path) -> Path:
    """Return the archive with the small tables."""
    return folder / "meteor-1.5.jar"


def paraphrases_of(folder: Path) -> Path:
    """Return the compressed paraphrase table."""
    return folder / "data" / "paraphrase-en.gz"


def damaged(path: Path, reason: object) -> CaptionkitError:
    """Return the error for a file that cannot be read."""
    return CaptionkitError(f"{path}: cannot be read ({reason}); {_INSTALL} --force-reinstall")


def read_tables(jar: Path) -> Tables:
    """Read the small tables. Raises CaptionkitError."""
    try:
        with zipfile.ZipFile(jar) as archive:
            lines = {name: archive.read(name).decode("utf-8").splitlines() for name in _MEMBERS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(jar, error) from None
    function_words, prefixes, synsets, exceptions = (lines[name] for name in _MEMBERS)
    bases: dict[str, list[str]] = {}
    for base, inflected in zip(exceptions[::2], exceptions[1::2], strict=True):
        for word in inflected.split():
            bases.setdefault(word, []).append(base)
    return Tables(
        frozenset(function_words),
        _prefixes(prefixes),
        dict(zip(synsets[::2], synsets[1::2], strict=True)),
        bases,
    )


def _prefixes(lines: list[str]) -> dict[str, bool]:
    split = (line.split() for line in lines)
    return {words[0]: words[1:2] == ["#NUMERIC_ONLY#"] for words in split if words and not words[0].startswith("#")}


def _folders() -> list[Path]:
    spec = importlib.util.find_spec("pycocoevalcap")
    return [Path(place) / "meteor" for place in (spec.submodule_search_locations or ())] if spec else []
