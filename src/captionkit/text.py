"""Captions to token ids and back, on the tokenizers library: word-level, or byte-level BPE, for any language.

The word-level tokens are those that the caption metrics count (Penn Treebank, as coco-caption uses it): lower-cased,
clitics split off ("dog's" -> "dog" "'s"), punctuation dropped. Chinese and Japanese, written without spaces, become one
token a character. For Thai, Lao, Khmer and Burmese, which have no spaces either, BPE is the better choice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
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
_CLITICS = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")

# Oniguruma's syntax. A word starts with a letter or digit, so that marks that belong to no letter (as those of emoji)
# are dropped. Inside it may stand an apostrophe, hyphen, ampersand, middle dot or (Persian, Indic) joiner; in numbers
# a point, comma or colon; and single letters with points between them are one word ("u.s.", "t.v").
_FIRST = rf"[[\p{{L}}\p{{N}}]&&[^{_CJK}]]"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[^{_CJK}]]"
_CLITIC = rf"'(?:s|re|ve|ll|d|m)(?!{_LETTER})"
_NOT = rf"n't(?!{_LETTER})"
_ACRONYM = rf"\p{{L}}(?:\.\p{{L}}(?!{_LETTER}))+\.?"
_WORD = rf"{_FIRST}{_LETTER}*(?:(?:(?!{_CLITIC})['\-&·\u200c\u200d]|(?<=\p{{N}})[.,:](?=\p{{N}})){_LETTER}+)*"
_TOKEN = rf"[{_CJK}]\p{{M}}*|{_FIRST}{_LETTER}*?(?={_NOT})|{_NOT}|{_CLITIC}|{_ACRONYM}|{_WORD}|\p{{Sc}}|[%&#@+=°]"


class Text:
    """A vocabulary with its rules. `len(text)` is the vocabulary size, special tokens included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SPECIALS if token not in vocabulary]
        if missing:
            raise TextError(f"the tokenizer lacks {', '.join(missing)}; build it with captionkit.text.Text.train")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (vocabulary[token] for token in SPECIALS)
        #: ids that a caption must not contain: the unknown word is learnt, but never said
        self.never_generated = frozenset((self.pad_id, self.bos_id, self.unk_id))
        self._tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self._byte_level = isinstance(tokenizer.model, models.BPE)
        tokenizer.encode_special_tokens = True  # "<eos>" in a caption is text like any other
        gaps = [vocabulary[token] for token in self._tokens] != list(range(len(vocabulary)))
        if gaps or tokenizer.encode(UNK).ids[:: len(tokenizer.encode(UNK).ids) - 1] != [self.bos_id, self.eos_id]:
            raise TextError("the tokenizer does not number its tokens from 0 or does not mark a caption's ends")

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
