"""METEOR's paraphrase table, converted once to a compact form and cached in the user's cache.

The source has 5.3 million records of three lines: a probability, which METEOR 1.5 does not use, a phrase, and a
paraphrase. Here every word is one UTF-16 code unit and a phrase is a short string, so looking for a phrase in a
sentence is a substring search, and numpy can look up all phrases of many sentences at once.
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
from captionkit.utils.atomic_write import write_bytes
from captionkit.utils.paths import cache_folder

Arrays = dict[str, Any]
#: the maximum number of words of a phrase
LONGEST = 7
#: separates phrases, and sentences
SEPARATOR = "\0"
#: stands for a word in no phrase
UNKNOWN = "\uffff"

_NAMES = ("words", "others", "starts", *(f"{name}{k}" for k in range(1, LONGEST + 1) for name in ("keys", "rows")))
_VERSION = 1
_BLOCK = 1 << 16  # small enough that a block's words stay in the processor's cache
_LAST_CODE = 0xD7FF  # above are surrogates


def load_table(source: Path) -> Arrays:
    """Return the table of `source` from the cache, building and caching it first if needed. Raises CaptionkitError.

    words: uint8, the vocabulary in UTF-8, one word per line; word i has the code i + 1.
    others: uint16, codes of the paraphrases, row after row, each ended by a zero.
    starts: int64[rows+1], start of each row in `others`.
    keys1..keys7: int64[nodes], sorted: the trie of phrases. The node of k words is the index of
        (node of the first k-1 words) << 16 | code of the last; the node of no words is 0.
    rows1..rows7: int32[nodes], the row of a node, or -1 if no phrase ends there.
    """
    path = cache_folder() / "meteor" / f"{_fingerprint(source)}.npz"
    # A damaged file is ignored, whatever zipfile and numpy raise. Each array has a checksum.
    with suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in _NAMES}
    table = build_table(source)
    buffer = io.BytesIO()
    np.savez(buffer, **table)
    with suppress(CaptionkitError):  # a cache that cannot be written costs time, not the score
        write_bytes(path, buffer.getvalue())
    return table


def _fingerprint(source: Path) -> str:
    """Return the cache key of a gzip file: its name and its last eight bytes, the content's checksum and size."""
    try:
        with source.open("rb") as file:
            file.seek(-8, io.SEEK_END)
            checksum, size = struct.unpack("<II", file.read(8))
    except (OSError, struct.error) as error:
        raise damaged(source, error) from None
    return f"{source.stem}-{checksum:08x}-{size:08x}-v{_VERSION}"


def build_table(source: Path) -> Arrays:
    """Build the table from the gzip file `source` in one pass, with bounded memory. Raises CaptionkitError."""
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
    """Yield the lines of the file, in groups of whole records."""
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
    """Words to codes, numbered from 1 in order of appearance."""

    def __init__(self) -> None:
        super().__init__({SEPARATOR.encode(): 0})

    def __missing__(self, word: bytes) -> int:
        code = self[word] = len(self)
        if code > _LAST_CODE:
            raise ValueError(f"it has more than {_LAST_CODE} words")
        return code

    def encode(self, phrases: list[bytes]) -> NDArray[np.uint16]:
        """Return the codes of phrases, each ended by a zero."""
        words = b" \0 ".join([*phrases, b""]).split()
        return np.fromiter(map(self.__getitem__, words), np.uint16, len(words))

    def words(self) -> list[bytes]:
        """Return the words in the order of their codes, without the separator."""
        return list(self)[1:]


def _trie(phrases: NDArray[np.uint16]) -> Arrays:
    """Build the trie of zero-terminated phrases; phrase i is row i."""
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
    """Return the keys of the nodes reached from `nodes` by the words `codes`."""
    return nodes << 16 | codes


def vocabulary(table: Mapping[str, Any]) -> dict[str, str]:
    """Return word -> its character."""
    words = table["words"].tobytes().decode("utf-8").split("\n")
    return {word: chr(code) for code, word in enumerate(words, 1)}
