"""Captions to token ids and back, on the tokenizers library: word-level, or byte-level BPE, for any language.

The word-level tokens are those that the caption metrics count (Penn Treebank, as coco-caption uses it): lower-cased,
clitics split off ("dog's" -> "dog" "'s"), punctuation dropped. Chinese and Japanese, written without spaces, become one
token a character. For Thai, Lao, Khmer and Burmese, which have no spaces either, BPE is the better choice.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from captionkit.errors import TextError

PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")

# Han, Hiragana and Katakana (half-width too): where words meet without a space.
_CJK = (
    "\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_STARTS_CJK = re.compile(f"[{_CJK}]").match
_FINDS_CJK = re.compile(f"[{_CJK}]").search
_CLITICS = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")

# Oniguruma's syntax. A word starts with a letter or digit, so that marks that belong to no letter (as those of emoji)
# are dropped. Inside it may stand an apostrophe, hyphen, ampersand, middle dot or (Persian, Indic) joiner; in numbers
# a point, comma or colon; and single letters with points between them are one word ("u.s.", "t.v").
_FIRST = rf"[[\p{{L}}\p{{N}}]&&[^{_CJK}]]"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[^{_CJK}]]"
_CLITIC = rf"'(?:s|re|ve|ll|d|m)(?!{_LETTER})"
_NOT = rf"n't(?!{_LETTER})"
_ACRONYM = rf"[\p{{L}}&&{_FIRST}](?:\.[\p{{L}}&&{_FIRST}](?!{_LETTER}))+\.?"
_WORD = rf"{_FIRST}{_LETTER}*(?:(?:(?!{_CLITIC})['\-&·\u200c\u200d]|(?<=\p{{N}})[.,:](?=\p{{N}})){_LETTER}+)*"
_TOKEN = rf"[{_CJK}]\p{{M}}*|{_FIRST}{_LETTER}*?(?={_NOT})|{_NOT}|{_CLITIC}|{_ACRONYM}|{_WORD}|\p{{Sc}}|[%&#@+=°]"


class Text:
    """A vocabulary with its rules. `len(text)` is the vocabulary size, special tokens included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SPECIALS if token not in vocabulary]
        if missing:
            raise TextError(
                f"the tokenizer lacks {', '.join(missing)}; build it with captionkit.data.tokenizer.Text.train"
            )
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (vocabulary[token] for token in SPECIALS)
        #: ids that a caption must not contain: the unknown word is learnt, but never said
        self.never_generated = frozenset((self.pad_id, self.bos_id, self.unk_id))
        self._tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self._byte_level = isinstance(tokenizer.model, models.BPE)
        tokenizer.encode_special_tokens = True  # "<eos>" in a caption is text like any other
        numbered = [vocabulary[token] for token in self._tokens] == list(range(len(self)))
        framed = tokenizer.encode("a").ids
        if not numbered or (framed[0], framed[-1]) != (self.bos_id, self.eos_id):
            raise TextError("not a tokenizer that captionkit made; build one with captionkit.data.tokenizer.Text.train")

    @classmethod
    def train(
        cls, captions: Iterable[str], *, kind: str = "word", min_frequency: int = 5, vocab_size: int = 8000
    ) -> Text:
        """Build a vocabulary of the `captions`, always the same for the same captions.

        Kind "word" keeps the tokens seen at least `min_frequency` times; kind "bpe" merges byte pairs seen as often,
        until there are `vocab_size` tokens (the 256 bytes always among them). Raises TextError where nothing is left.
        """
        if kind not in ("word", "bpe"):
            raise TextError(f"tokenizer kind {kind!r} is unknown; use 'word' or 'bpe'")
        tokenizer = _word_level() if kind == "word" else _byte_level()
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
        tokenizer.train_from_iterator(captions, trainer)
        if tokenizer.get_vocab_size() <= len(SPECIALS):
            raise TextError(
                f"no token occurs {min_frequency} times in the training captions; lower the minimum frequency"
            )
        bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", special_tokens=[(BOS, bos), (EOS, eos)]
        )
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Text:
        """Read a `tokenizer.json`. Raises TextError where it cannot be read or is not one of captionkit's."""
        try:
            content = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise TextError(f"{path}: cannot be read ({reason}); get the model again") from None
        try:
            return cls(Tokenizer.from_str(content))
        except TextError as error:
            raise TextError(f"{path}: {error}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # for malformed files the library raises bare Exception, or panics
            reason = textwrap.shorten(str(error), 200)
            raise TextError(f"{path}: not a tokenizer file ({reason}); get the model again") from None

    def grown(self, captions: Iterable[str], min_frequency: int) -> Text:
        """This vocabulary with the words seen at least `min_frequency` times in `captions` added at its end.

        Old words keep their ids, and new ones come the commonest first. A byte-level vocabulary can spell every word
        already, so it is returned as it is; and so is one that lacks none.
        """
        if self._byte_level:
            return self
        counts = self.counted(captions)
        known = self.tokenizer.get_vocab()
        new = sorted(word for word, count in counts.items() if count >= min_frequency and word not in known)
        new.sort(key=lambda word: -counts[word])
        if not new:
            return self
        content = json.loads(self.tokenizer.to_str())
        content["model"]["vocab"] |= {word: place for place, word in enumerate(new, start=len(self))}
        return Text(Tokenizer.from_str(json.dumps(content)))

    def counted(self, captions: Iterable[str]) -> Mapping[str, int]:
        """How often each word stands in `captions`, split by this word-level vocabulary's rules, known or not."""
        normal, split = self.tokenizer.normalizer.normalize_str, self.tokenizer.pre_tokenizer.pre_tokenize_str
        return Counter(token for caption in captions for token, _ in split(normal(caption)))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token, in the order of the ids."""
        return tuple(self._tokens)

    def to_json(self) -> str:
        """What goes into `tokenizer.json`."""
        return json.dumps(json.loads(self.tokenizer.to_str()), ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    def __len__(self) -> int:
        return len(self._tokens)

    def encode(self, caption: str) -> list[int]:
        """Token ids of a caption, from <bos> to <eos>."""
        return self.tokenizer.encode(caption).ids

    def encode_batch(self, captions: Sequence[str]) -> list[list[int]]:
        """`encode` for many captions at once."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]

    def decode(self, ids: Sequence[int]) -> str:
        """The sentence that `ids` spell; <pad>, <bos> and <eos> are left out."""
        shown = [int(ids[position]) for position in self._shown(ids)]
        return self._spell(shown) if self._byte_level else "".join(self._pieces(shown))

    def words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The words of `decode(ids)`, each with the positions in `ids` that spell it."""
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
        """What each of the ids adds to the sentence; nothing, where one ends inside a character."""
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
        """The sentence of byte-level ids."""
        return " ".join(self.tokenizer.decode(list(shown), skip_special_tokens=False).split())

    def _shown(self, ids: Sequence[int]) -> list[int]:
        hidden = (self.pad_id, self.bos_id, self.eos_id)
        return [position for position, token in enumerate(ids) if token not in hidden]


def split_words(captions: Iterable[str]) -> list[list[str]]:
    """Captions as word-level tokens, whatever their language and without a vocabulary."""
    tokenizer = _word_level()
    normal, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    return [[token for token, _ in split(normal(caption))] for caption in captions]


def has_cjk(caption: str) -> bool:
    """Whether a caption holds Chinese or Japanese characters, which are written without spaces."""
    return bool(_FINDS_CJK(caption))


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace("’", "'")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
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
    """Whether `token` follows the character `before` without a space."""
    return token in _CLITICS or bool(_STARTS_CJK(before) or _STARTS_CJK(token))


def _starts_word(before: str, piece: str) -> bool:
    """Whether `piece`, which follows the character `before` in a sentence, is a word of its own."""
    return bool(piece[0] == " " or _STARTS_CJK(piece) or (_STARTS_CJK(before) and piece[0].isalnum()))
