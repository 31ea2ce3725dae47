"""Tokenizer: captions to token ids and back, word-level or byte-level BPE, for any language.

Built on the tokenizers library. The word-level tokens are those that the caption metrics count (Penn Treebank, as in
coco-caption): lower-cased, clitics split off ("dog's" -> "dog" "'s"), punctuation dropped. Chinese and Japanese,
written without spaces, become one token per character. For Thai, Lao, Khmer and Burmese, also without spaces, BPE is
the better choice.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from captionkit.data.special_tokens import SpecialTokens
from captionkit.errors import TokenizerError

PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")

# Han, Hiragana and Katakana (also half-width): scripts without spaces between words.
_CJK = (
    "\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_STARTS_CJK = re.compile(f"[{_CJK}]").match
_FINDS_CJK = re.compile(f"[{_CJK}]").search
_CLITICS = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")

# Oniguruma syntax. A word starts with a letter or digit, so that marks that belong to no letter (as in emoji) are
# dropped. It may contain an apostrophe, hyphen, ampersand, middle dot or (Persian, Indic) joiner; numbers may contain
# a point, comma or colon; single letters with points between them are one word ("u.s.", "t.v").
_FIRST = rf"[[\p{{L}}\p{{N}}]&&[^{_CJK}]]"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[^{_CJK}]]"
_CLITIC = rf"'(?:s|re|ve|ll|d|m)(?!{_LETTER})"
_NOT = rf"n't(?!{_LETTER})"
_ACRONYM = rf"[\p{{L}}&&{_FIRST}](?:\.[\p{{L}}&&{_FIRST}](?!{_LETTER}))+\.?"
_WORD = rf"{_FIRST}{_LETTER}*(?:(?:(?!{_CLITIC})['\-&·\u200c\u200d]|(?<=\p{{N}})[.,:](?=\p{{N}})){_LETTER}+)*"
_TOKEN = rf"[{_CJK}]\p{{M}}*|{_FIRST}{_LETTER}*?(?={_NOT})|{_NOT}|{_CLITIC}|{_ACRONYM}|{_WORD}|\p{{Sc}}|[%&#@+=°]"


class Tokenizer:
    """A tokenizer of the tokenizers library (`backend`) with special tokens; `len(tokenizer)` counts all its tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        vocabulary = backend.get_vocab()
        missing = [token for token in SPECIALS if token not in vocabulary]
        if missing:
            raise TokenizerError(
                f"the tokenizer lacks {', '.join(missing)}; build it with captionkit.data.tokenizer.Tokenizer.train"
            )
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (vocabulary[token] for token in SPECIALS)
        #: ids that are never generated: <unk> occurs in training, but never in a caption
        self.never_generated = frozenset((self.pad_id, self.bos_id, self.unk_id))
        self.special = SpecialTokens((self.bos_id,), self.eos_id, self.never_generated)
        self._tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self._byte_level = isinstance(backend.model, models.BPE)
        backend.encode_special_tokens = True  # "<eos>" in a caption is ordinary text
        numbered = [vocabulary[token] for token in self._tokens] == list(range(len(self)))
        framed = backend.encode("a").ids
        if not numbered or (framed[0], framed[-1]) != (self.bos_id, self.eos_id):
            raise TokenizerError(
                "not a tokenizer that captionkit made; build one with captionkit.data.tokenizer.Tokenizer.train"
            )

    @classmethod
    def train(
        cls, captions: Iterable[str], *, kind: str = "word", min_frequency: int = 5, vocab_size: int = 8000
    ) -> Tokenizer:
        """Build a vocabulary from `captions`; deterministic for the same captions.

        Kind "word" keeps the tokens seen at least `min_frequency` times; kind "bpe" merges byte pairs seen at least as
        often, until there are `vocab_size` tokens (always including the 256 bytes). Raises TokenizerError if no token
        is left.
        """
        if kind not in ("word", "bpe"):
            raise TokenizerError(f"tokenizer kind {kind!r} is unknown; use 'word' or 'bpe'")
        backend = _word_level() if kind == "word" else _byte_level()
        trainer = (
            trainers.WordLevelTrainer(
                vocab_size=1_000_000, min_frequency=min_frequency, special_tokens=list(SPECIALS), show_progress=False
            )
            if kind == "word"
            else trainers.BpeTrainer(
                vocab_size=vocab_size,
                min_frequency=min_frequency,
                special_tokens=list(SPECIALS),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            )
        )
        backend.train_from_iterator(captions, trainer)
        if backend.get_vocab_size() <= len(SPECIALS):
            raise TokenizerError(
                f"no token occurs {min_frequency} times in the training captions; lower the minimum frequency"
            )
        bos, eos = backend.token_to_id(BOS), backend.token_to_id(EOS)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", special_tokens=[(BOS, bos), (EOS, eos)]
        )
        return cls(backend)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load a `tokenizer.json`. Raises TokenizerError if it cannot be read or was not made by captionkit."""
        backend = read_backend(path)
        try:
            return cls(backend)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the library may panic on first use
            raise _malformed(path, error) from None

    def extended(self, captions: Iterable[str], min_frequency: int) -> Tokenizer:
        """Return this vocabulary extended by the words seen at least `min_frequency` times in `captions`.

        Existing words keep their ids; new ones are appended, most frequent first. A byte-level vocabulary can already
        spell every word and is returned unchanged, as is one that lacks no word.
        """
        if self._byte_level:
            return self
        counts = self.count_words(captions)
        known = self.backend.get_vocab()
        new = sorted(word for word, count in counts.items() if count >= min_frequency and word not in known)
        new.sort(key=lambda word: -counts[word])
        if not new:
            return self
        content = json.loads(self.backend.to_str())
        content["model"]["vocab"] |= {word: place for place, word in enumerate(new, start=len(self))}
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))

    def count_words(self, captions: Iterable[str]) -> Mapping[str, int]:
        """Count the words in `captions`, split by this word-level tokenizer, whether in the vocabulary or not."""
        normal, split = self.backend.normalizer.normalize_str, self.backend.pre_tokenizer.pre_tokenize_str
        return Counter(token for caption in captions for token, _ in split(normal(caption)))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return all tokens in the order of their ids."""
        return tuple(self._tokens)

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return json.dumps(json.loads(self.backend.to_str()), ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    def __len__(self) -> int:
        return len(self._tokens)

    def encode(self, caption: str) -> list[int]:
        """Return the token ids of a caption, from <bos> to <eos>."""
        return self.backend.encode(caption).ids

    def encode_phrase(self, phrase: str, *, first: bool) -> tuple[list[int], list[str]]:
        """Return the ids of a part of a caption, and its words that the vocabulary lacks.

        `first` says whether the part begins the caption, which only some pretrained vocabularies tell apart.
        """
        encoding = self.backend.encode(phrase, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return encoding.ids, [phrase[start:end] for token, (start, end) in spans if token == self.unk_id]

    def encode_batch(self, captions: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each caption."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(captions))]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the sentence that `ids` spell, without <pad>, <bos> and <eos>."""
        shown = [int(ids[position]) for position in self._shown(ids)]
        return self._spell(shown) if self._byte_level else "".join(self._pieces(shown))

    def words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return the words of `decode(ids)`, each with the positions in `ids` that spell it."""
        words: list[tuple[str, list[int]]] = []
        shown = self._shown(ids)
        before, pending = "", []
        for position, piece in zip(shown, self._pieces([int(ids[position]) for position in shown]), strict=True):
            pending.append(position)
            if not piece:
                continue
            if not words or _starts_word(before, piece):
                words.append((piece.lstrip(), pending))
            else:
                words[-1] = (words[-1][0] + piece, words[-1][1] + pending)
            before, pending = piece[-1], []
        if words:
            words[-1][1].extend(pending)
        return words

    def _pieces(self, shown: Sequence[int]) -> Iterator[str]:
        """Yield the text that each id adds to the sentence; empty if an id ends inside a character."""
        if self._byte_level:
            said = ""
            for count in range(1, len(shown) + 1):
                sentence = self._spell(shown[:count])
                whole = count == len(shown) or not sentence.endswith("\ufffd")
                yield sentence[len(said) :] if whole else ""
                said = sentence if whole else said
            return
        before = ""
        for token in map(self._tokens.__getitem__, shown):
            yield token if not before or _attaches(before, token) else f" {token}"
            before = token[-1:] or before

    def _spell(self, shown: Sequence[int]) -> str:
        """Return the sentence of byte-level ids."""
        return " ".join(self.backend.decode(list(shown), skip_special_tokens=False).split())

    def _shown(self, ids: Sequence[int]) -> list[int]:
        hidden = (self.pad_id, self.bos_id, self.eos_id)
        return [position for position, token in enumerate(ids) if token not in hidden]


def read_backend(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
    """Read any `tokenizer.json`. Raises TokenizerError if it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise TokenizerError(f"{path}: cannot be read ({reason}); get the model again") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # for malformed files the library raises a bare Exception, or panics
        raise _malformed(path, error) from None


def _malformed(path: str | os.PathLike[str], error: BaseException) -> TokenizerError:
    reason = textwrap.shorten(str(error), 200)
    return TokenizerError(f"{path}: not a tokenizer file ({reason}); get the model again")


def split_words(captions: Iterable[str]) -> list[list[str]]:
    """Split captions into word-level tokens, in any language and without a vocabulary."""
    tokenizer = _word_level()
    normal, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    return [[token for token, _ in split(normal(caption))] for caption in captions]


def has_cjk(caption: str) -> bool:
    """Return whether a caption contains Chinese or Japanese characters, which are written without spaces."""
    return bool(_FINDS_CJK(caption))


def _word_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace("’", "'")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    return tokenizer


def _byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[\s\p{Cc}]+"), " "),  # a caption is one line
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _attaches(before: str, token: str) -> bool:
    """Return whether `token` follows the character `before` without a space."""
    return token in _CLITICS or bool(_STARTS_CJK(before) or _STARTS_CJK(token))


def _starts_word(before: str, piece: str) -> bool:
    """Return whether `piece`, which follows the character `before` in a sentence, starts a new word."""
    return bool(piece[0] == " " or _STARTS_CJK(piece) or (_STARTS_CJK(before) and piece[0].isalnum()))
