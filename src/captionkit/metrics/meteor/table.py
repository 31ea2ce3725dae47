"""METEOR's table of paraphrases, made compact once and kept in the user's cache.

The source holds 5.3 million records of three lines: a probability, which METEOR 1.5 does not use, a phrase, and another
way to say it. Here every word is one UTF-16 code unit, so that a phrase is a short text: whether a sentence contains it
is a search for a substring, and numpy can look for all phrases of many sentences at once.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captionkit.errors import CaptionkitError
from captionkit.metrics.meteor.data import damaged
from captionkit.utils.files import cache_folder, write_bytes

Arrays = dict[str, Any]
#: phrases have at most so many words
LONGEST = 7
#: between phrases, and between sentences
SEPARATOR = "\0"
#: a word that no phrase contains
UNKNOWN = "\uffff"

_NAMES = ("words", "others", "starts", *(f"{name}{k}" for k in range(1, LONGEST + 1) for name in ("keys", "rows")))
_VERSION = 1
_BLOCK = 1 << 16  # the words of a block should stay in the processor's cache
_LAST_CODE = 0xD7FF  # above are surrogates


def load_table(source: Path) -> Arrays:
    """The table of `source`: from the cache, or built and put there. Raises CaptionkitError.

    words: uint8, the vocabulary in UTF-8, a word a line; word i is the code i + 1.
    others: uint16, codes of the other ways to say the phrases, row after row, each ended by a zero.
    starts: int64[rows+1], where in `others` a row starts.
    keys1..keys7: int64[nodes], sorted: the trie of phrases. The node of k words is the place of
        (node of the first k-1 words) << 16 | code of the last; the node of no word is 0.
    rows1..rows7: int32[nodes], the row of a node, or -1 where no phrase ends.
    """
    path = cache_folder() / "meteor" / f"{_fingerprint(source)}.npz"
    # Whatever zipfile and numpy make of a damaged file, it is not used. Each array has its checksum.
    with suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in _NAMES}
    table = build_table(source)
    buffer = io.BytesIO()
    np.savez(buffer, **table)
    with suppress(CaptionkitError):  # a cache that cannot be written costs time, not the score
        write_bytes(path, buffer.getvalue())
    return table


def _fingerprint(source: Path) -> str:
    """Of a gzip file: its name, and checksum and size of its content, which are its last eight bytes."""
    try:
        with source.open("rb") as file:
            file.seek(-8, io.SEEK_END)
            checksum, size = struct.unpack("<II", file.read(8))
    except (OSError, struct.error) as error:
        raise damaged(source, error) from None
    return f"{source.stem}-{checksum:08x}-{size:08x}-v{_VERSION}"


def build_table(source: Path) -> Arrays:
    """Read the gzip file `source` in one pass, with a bounded part of it in memory. Raises CaptionkitError."""
    codes = _Codes()
    phrases: list[bytes] = []
    others: list[NDArray[np.uint16]] = []
    starts: list[NDArray[np.int64]] = []
    done, last = 0, b""
    try:
        for lines in _records(source):
            said, otherwise = lines[1::3], lines[2::3]
            new = np.fromiter(map(bytes.__ne__, said, chain((last,), said)), bool, len(said))
            encoded = codes.encode(otherwise)
            ends = np.flatnonzero(encoded == 0) + 1
            starts.append(done + np.concatenate([[0], ends[:-1]])[new])
            others.append(encoded)
            phrases.extend(said[place] for place in np.flatnonzero(new))
            done, last = done + len(encoded), said[-1]
        trie = _trie(codes.encode(phrases))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(source, error) from None
    return {
        "words": np.frombuffer(b"\n".join(codes.words()), np.uint8),
        "others": np.concatenate([*others, np.zeros(0, np.uint16)]),
        "starts": np.concatenate([*starts, [done]]).astype(np.int64),
        **trie,
    }


def _records(source: Path) -> Iterator[list[bytes]]:
    """The lines of the file, some whole records at a time."""
    rest: list[bytes] = []
    unfinished = b""
    with gzip.open(source, "rb") as file:
        while block := file.read(_BLOCK):
            lines = (unfinished + block).split(b"\n")
            unfinished = lines.pop()
            lines = rest + lines
            whole = len(lines) - len(lines) % 3
            rest = lines[whole:]
            if whole:
                yield lines[:whole]
    if rest or unfinished:
        raise ValueError("it ends in the middle of a record")


class _Codes(dict[bytes, int]):
    """Words to codes, given in the order of appearance, from 1 on."""

    def __init__(self) -> None:
        super().__init__({SEPARATOR.encode(): 0})

    def __missing__(self, word: bytes) -> int:
        code = self[word] = len(self)
        if code > _LAST_CODE:
            raise ValueError(f"it has more than {_LAST_CODE} words")
        return code

    def encode(self, phrases: list[bytes]) -> NDArray[np.uint16]:
        """The codes of phrases, each ended by a zero."""
        words = b" \0 ".join([*phrases, b""]).split()
        return np.fromiter(map(self.__getitem__, words), np.uint16, len(words))

    def words(self) -> list[bytes]:
        """The words in the order of their codes, without the separator."""
        return list(self)[1:]


def _trie(phrases: NDArray[np.uint16]) -> Arrays:
    """The trie of phrases that are each ended by a zero; phrase i is the row i."""
    ends = np.flatnonzero(phrases == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= LONGEST:
        raise ValueError(f"it has phrases of {lengths.min()} to {lengths.max()} words")
    trie: Arrays = {}
    nodes = np.zeros(len(starts), np.int64)
    for k in range(1, LONGEST + 1):
        inside = np.flatnonzero(lengths >= k)
        keys, places = np.unique(child_keys(nodes[inside], phrases[starts[inside] + k - 1]), return_inverse=True)
        nodes[inside] = places
        rows = np.full(len(keys), -1, np.int32)
        ending = np.flatnonzero(lengths == k)
        rows[nodes[ending]] = ending
        if (rows >= 0).sum() != len(ending):
            raise ValueError("it has a phrase at two places")
        trie[f"keys{k}"], trie[f"rows{k}"] = keys, rows
    return trie


def child_keys(nodes: NDArray[np.int64], codes: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Keys of the nodes that follow `nodes` with the words `codes`."""
    return nodes << 16 | codes


def vocabulary(table: Mapping[str, Any]) -> dict[str, str]:
    """Word -> the one character that stands for it."""
    words = table["words"].tobytes().decode("utf-8").split("\n")
    return {word: chr(code) for code, word in enumerate(words, 1)}
