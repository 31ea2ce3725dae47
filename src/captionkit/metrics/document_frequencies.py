"""Document frequencies of n-grams, the number of images whose references contain each: CIDEr's idf weights.

Tokens may be words or token ids. Counted once, the frequencies of a training corpus serve any number of candidates: for
the reward of self-critical training, or for scores independent of which images are scored together.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.metrics.metric import Floats, tokens_of, words_of
from captionkit.metrics.ngrams import LONGEST, Ints, Sentences, find, number, positions
from captionkit.utils import atomic_write, paths

#: far above any caption corpus: COCO's training references take 30 MB
_MAX_BYTES = 1 << 30


class DocumentFrequencies:
    """The document frequencies of all n-grams, n = 1 to 4, in a corpus of references.

    images: number of images in the corpus.
    vocabulary: its tokens, numbered from 0; V of them.
    keys: for each n, the n-grams in rising order: the rank of its first n-1 tokens among the (n-1)-grams, times V, plus
        the number of its last token. counts: the number of images with each of them.
    """

    def __init__(
        self, images: int, vocabulary: dict[Hashable, int], keys: Sequence[Ints], counts: Sequence[Ints]
    ) -> None:
        self.images, self.vocabulary, self.keys, self.counts = images, vocabulary, list(keys), list(counts)

    @classmethod
    def of(cls, references: Sequence[Sequence[Sequence[Hashable]]]) -> DocumentFrequencies:
        """Count the tokenised references of each image. Raises ValueError if given text instead of tokens."""
        vocabulary: dict[Hashable, int] = {}
        sentences = number([words_of(tokens_of(reference)) for some in references for reference in some], vocabulary)
        images = np.repeat(np.arange(len(references)), [len(some) for some in references])[sentences.owners]  # [P]
        keys, counts = [], []
        ranks = np.zeros(len(images), np.int64)
        for n, (starts, kept) in enumerate(positions(sentences), start=1):
            found = ranks[kept] * len(vocabulary) + sentences.tokens[starts + n - 1]
            known, ranks = np.unique(found, return_inverse=True)
            ranks = ranks.reshape(-1)
            once = np.unique(images[starts] * max(len(known), 1) + ranks)  # an image counts once
            keys.append(known)
            counts.append(np.bincount(once % max(len(known), 1), minlength=len(known)))
        return cls(len(references), vocabulary, keys, counts)

    def inverse(self, sentences: Sentences) -> Iterator[Floats]:
        """Yield, for n = 1 to 4, ln(images / frequency) of each n-gram of `sentences`, in the order of `ngrams`.

        `sentences` are numbered by a vocabulary that extends this one; an n-gram unknown here counts as seen once.
        """
        known = np.zeros(len(sentences.tokens), np.int64)  # ranks, or -1
        inside = sentences.tokens < len(self.vocabulary)
        for n, (starts, kept) in enumerate(positions(sentences), start=1):
            last, known = starts + n - 1, known[kept]
            places, there = find(known * len(self.vocabulary) + sentences.tokens[last], self.keys[n - 1])
            there &= inside[last] & (known >= 0)
            frequency = np.ones(len(starts))
            frequency[there] = self.counts[n - 1][places[there]]
            known = np.where(there, places, -1)
            yield np.log(max(self.images, 1)) - np.log(frequency)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .npz file atomically. Raises CaptionkitError if it cannot be written."""
        arrays = {f"keys{n}": keys for n, keys in enumerate(self.keys, 1)}
        arrays |= {f"counts{n}": counts for n, counts in enumerate(self.counts, 1)}
        listed = [token.item() if isinstance(token, np.generic) else token for token in self.vocabulary]
        if not all(isinstance(token, (str, int)) for token in listed):
            raise CaptionkitError(f"{path}: only frequencies of words or token ids can be saved")
        tokens = json.dumps(listed)
        arrays |= {"images": np.array(self.images), "vocabulary": np.frombuffer(tokens.encode(), np.uint8)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        atomic_write.write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DocumentFrequencies:
        """Read what `save` wrote. Raises CaptionkitError if it is something else."""
        paths.check_file(path)
        try:
            with zipfile.ZipFile(path) as archive:  # check the sizes before unpacking
                if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES >> 20} MB unpacked")
            with np.load(path, allow_pickle=False) as stored:
                tokens = json.loads(stored["vocabulary"].tobytes())
                keys, counts = ([stored[f"{kind}{n}"] for n in range(1, LONGEST + 1)] for kind in ("keys", "counts"))
                images = int(stored["images"])
            _check(images, tokens, keys, counts)
        except OSError as error:
            raise CaptionkitError(f"{path}: cannot be read ({error.strerror or error}); check its name") from None
        except (
            ValueError,
            TypeError,
            KeyError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise CaptionkitError(
                f"{Path(path)}: holds no document frequencies ({error}); make them with DocumentFrequencies.save"
            ) from None
        return cls(images, {token: place for place, token in enumerate(tokens)}, keys, counts)


def _check(images: int, tokens: object, keys: Sequence[Ints], counts: Sequence[Ints]) -> None:
    """Raise ValueError if these are not what `save` writes."""
    if images < 0 or not isinstance(tokens, list) or not all(isinstance(token, (str, int)) for token in tokens):
        raise ValueError("its images or its vocabulary are damaged")
    for some, many in zip(keys, counts, strict=True):
        whole = some.ndim == many.ndim == 1 and some.dtype.kind == many.dtype.kind == "i"
        if not whole or len(some) != len(many) or (many < 1).any() or (np.diff(some) <= 0).any():
            raise ValueError("its counts are damaged")
