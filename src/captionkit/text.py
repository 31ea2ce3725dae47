"""Captions to token ids and back, on the tokenizers library: word-level, or byte-level BPE, for any language.

The word-level tokens follow what the caption metrics count (Penn Treebank, as coco-caption uses it): lower-cased,
clitics split off ("dog's" -> "dog" "'s"), punctuation dropped. Chinese and Japanese, written without spaces, become one
token a character.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from captionkit.errors import TextError

PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")

_CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}ー々]"
_LETTER = r"[[\p{L}\p{M}\p{N}]&&[^\p{Han}\p{Hiragana}\p{Katakana}ー々]]"
_CLITIC = rf"(?:'(?:s|re|ve|ll|d|m)(?!{_LETTER}))"
_NOT = rf"(?:n't(?!{_LETTER}))"
_WORD = rf"{_LETTER}+(?:(?:(?!{_CLITIC})['\-&]|(?<=\p{{N}})[.,:](?=\p{{N}})){_LETTER}+)*"
_TOKEN = rf"{_CJK}|{_LETTER}+?(?={_NOT})|{_NOT}|{_CLITIC}|{_WORD}|\p{{Sc}}|[%&#@+=°]"
_ATTACHED = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")


class Text:
    """A vocabulary with its rules. `len(text)` is the vocabulary size, special tokens included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        missing = [token for token in SPECIALS if tokenizer.token_to_id(token) is None]
        if missing:
            raise TextError(f"the tokenizer lacks {', '.join(missing)}; build it with captionkit.text.Text.train")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (tokenizer.token_to_id(token) for token in SPECIALS)
        self.byte_level = isinstance(tokenizer.model, models.BPE)

    @classmethod
    def train(
        cls, captions: Iterable[str], *, kind: str = "word", min_frequency: int = 5, vocab_size: int = 8000
    ) -> Text:
        """Build a vocabulary of the `captions`: kind "word" (tokens seen `min_frequency` times) or "bpe" (`vocab_size`)."""
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
        """Read a `tokenizer.json`."""
        try:
            return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except TextError as error:
            raise TextError(f"{path}: {error}") from None
        except Exception as error:  # the library raises bare Exception for malformed files
            raise TextError(f"{path}: not a tokenizer file ({error}); take it from the model folder again") from None

    def to_json(self) -> str:
        """What goes into `tokenizer.json`."""
        return json.dumps(json.loads(self.tokenizer.to_str()), ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @cached_property
    def never_generated(self) -> frozenset[int]:
        """Ids that a caption must not contain: the unknown word is learnt, but never said."""
        return frozenset((self.pad_id, self.bos_id, self.unk_id))

    def encode(self, caption: str) -> list[int]:
        """Token ids of a caption, from <bos> to <eos>."""
        return self.tokenizer.encode(caption).ids

    def encode_batch(self, captions: Sequence[str]) -> list[list[int]]:
        """`encode` for many captions at once."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]

    def decode(self, ids: Sequence[int]) -> str:
        """The sentence that `ids` spell; special tokens are left out, but for <unk>."""
        hidden = (self.pad_id, self.bos_id, self.eos_id)
        kept = [int(i) for i in ids if i not in hidden]
        if self.byte_level:
            return self.tokenizer.decode(kept, skip_special_tokens=False).strip()
        sentence = ""
        for token in map(self.tokenizer.id_to_token, kept):
            sentence += token if not sentence or _attaches(sentence[-1], token) else f" {token}"
        return sentence

    def words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The words of `decode(ids)`, each with the positions in `ids` that spell it."""
        words: list[tuple[str, list[int]]] = []
        said, pending = "", []
        for position in range(len(ids)):
            sentence = self.decode(ids[: position + 1])
            pending.append(position)
            if sentence.endswith("\ufffd") or len(sentence) <= len(said):
                continue  # a byte-level token can end inside a character
            piece, said = sentence[len(said) :], sentence
            if not words or piece.startswith(" ") or _is_cjk(piece[0]):
                words.append((piece.strip(), pending))
            else:
                words[-1] = (words[-1][0] + piece, words[-1][1] + pending)
            pending = []
        return words


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace("’", "'")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _attaches(before: str, token: str) -> bool:
    return token in _ATTACHED or (_is_cjk(before) and _is_cjk(token[0]))


def _is_cjk(character: str) -> bool:
    point = ord(character)
    return 0x3040 <= point <= 0x30FF or 0x3400 <= point <= 0x9FFF or 0x20000 <= point <= 0x3FFFF or character in "ー々"
