"""Decoding settings, stored in a model's config and overridden by callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

from captionkit.errors import CaptionkitError, ModelError
from captionkit.utils.dataclasses import check_fields


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field with its help text (command line and REST service) and its minimum and maximum."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@cache
def _numbers() -> list[tuple[str, type, float, float]]:
    """Return the numeric settings: name, type, minimum and maximum."""
    known = [(setting, setting.metadata["low"], setting.metadata["high"]) for setting in fields(Decoding)]
    return [(setting.name, type(setting.default), low, high) for setting, low, high in known if high is not None]


@dataclass(frozen=True)
class Decoding:
    """Decoding settings. Use `dataclasses.replace` to override fields; an invalid value raises CaptionkitError.

    With a `temperature` of 0, captions come from beam search:

    beam: hypotheses kept live at each step; 1 is greedy search.
    num_captions: captions per image, at most `beam`.
    length_penalty: score = log_prob / length**length_penalty, where length counts the words and the end token.
    groups: parts of the beam, each of which avoids the words of earlier ones; must divide `beam`. If groups end in the
        same caption all the same, fewer than `num_captions` are returned.
    horizon: the number of further words assumed, at most, when checking whether a live hypothesis can still beat the
        finished ones; 1 stops the search much earlier and rarely changes a caption. 0: up to `max_length`, so that no
        possible winner is missed.
    diversity: penalty, in nats, on a word for each hypothesis of an earlier group that has it at the same position.
    words: words and phrases that every caption contains, matched by token: "dog" is also in "dog's".

    Above 0 they are sampled, `num_captions` independent ones, whatever `beam` is:

    temperature: divides the log-probabilities; 1 samples from the model's own probabilities.
    top_k: sample from this many likeliest words only; 0 for all.
    top_p: sample from the fewest likeliest words whose total probability reaches this; 1 for all.
    seed: another seed gives other captions; the same seed gives the same captions for the same image.

    In both cases:

    min_length, max_length: words in a caption (strictly, tokens), without the end token, including a prefix.
    no_repeat: no run of this many words occurs twice in a caption, and no word follows itself; 0 allows repetition.
        Repetition within a prefix is allowed.
    banned_words: words and phrases that no caption contains.
    prefix: text that every caption begins with.
    """

    # The maxima bound the memory for tracing, steps x B x K x G floats.
    beam: int = _setting(3, "hypotheses kept alive; 1 is greedy", 1, 1000)
    num_captions: int = _setting(1, "captions of each image, best first", 1, 1000)
    # A negative length penalty would break the bound used for early stopping.
    length_penalty: float = _setting(1.0, "score = log-probability / length ** this", 0, 10)
    min_length: int = _setting(1, "fewest words of a caption", 0, 1000)
    max_length: int = _setting(30, "most words of a caption", 1, 1000)
    no_repeat: int = _setting(0, "no run of N words twice in a caption, no word twice in a row; 0: off", 0, 1000)
    groups: int = _setting(1, "parts of the beam that avoid each other's words; for several captions", 1, 1000)
    diversity: float = _setting(0.5, "how strongly groups avoid each other's words, in nats", 0, 100)
    temperature: float = _setting(0.0, "above 0, sample; 1: with the model's own probabilities", 0, 100)
    top_k: int = _setting(0, "sample from the N likeliest words; 0: from all", 0, 1_000_000)
    top_p: float = _setting(1.0, "sample from the likeliest words that together have this probability", 0, 1)
    seed: int = _setting(0, "seed of the samples", 0, 2**63 - 1)
    banned_words: tuple[str, ...] = _setting((), "words and phrases never to say")
    prefix: str = _setting("", "what captions begin with, for instance 'a photo of'")
    words: tuple[str, ...] = _setting((), "words and phrases that every caption contains")
    horizon: int = _setting(0, "stop once no caption can win within N words more; 0: within max_length", 0, 1000)

    def __post_init__(self) -> None:
        for name, kind, low, high in _numbers():
            self._check_number(name, kind, low, high)
        if not isinstance(self.prefix, str):
            raise CaptionkitError(f"prefix is {self.prefix!r}; use a text")
        for name in ("banned_words", "words"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(isinstance(phrase, str) for phrase in value):
                raise CaptionkitError(f"{name} is {value!r}; use a list of words or phrases")
            object.__setattr__(self, name, tuple(value))  # JSON has lists
        self._check_together()

    def _check_number(self, name: str, kind: Any, low: float, high: float) -> None:
        value = getattr(self, name)
        number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            what = "whole number" if kind is int else "number"
            raise CaptionkitError(f"{name} is {value!r}; use a {what} from {low} to {high}")

    def _check_together(self) -> None:
        if self.min_length > self.max_length:
            raise CaptionkitError(f"min_length is {self.min_length}, but must be <= max_length, {self.max_length}")
        if self.temperature:
            self._check_sampling()
            return
        if self.num_captions > self.beam:
            raise CaptionkitError(
                f"num_captions is {self.num_captions}, but must be <= beam, which is {self.beam}; raise beam"
            )
        if self.beam % self.groups:
            near = self.beam + self.groups - self.beam % self.groups
            raise CaptionkitError(
                f"groups is {self.groups}, but must divide beam, which is {self.beam}; use beam {near}"
            )
        for name, off in (("top_k", 0), ("top_p", 1)):
            if getattr(self, name) != off:
                raise CaptionkitError(
                    f"{name} is {getattr(self, name)}, which is for sampling; set a temperature too, for instance 1"
                )

    def _check_sampling(self) -> None:
        if self.top_p == 0:
            raise CaptionkitError("top_p is 0, so that no word can come; use a number above 0, at most 1")
        if self.groups > 1:
            raise CaptionkitError(
                f"groups is {self.groups}, but sampling has no beam to divide; leave out groups or the temperature"
            )
        if self.words:
            raise CaptionkitError(
                f"words such as {self.words[0]!r} are searched for, not sampled; leave out the words or the temperature"
            )

    def divisor(self, length: int) -> float:
        """Return the divisor of a caption's log-probability for its score.

        `length` counts the words and the end token.
        """
        return length**self.length_penalty

    def furthest(self, length: int) -> int:
        """Return the longest token count that a hypothesis of `length` words plus the next token can reach."""
        longest = self.max_length + 1
        return min(longest, length + 1 + self.horizon) if self.horizon else longest

    @property
    def has_text(self) -> bool:
        """Return whether there is text that must be converted to token ids."""
        return bool(self.banned_words or self.prefix or self.words)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's config stores them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        """Read what `to_dict` wrote; missing fields take their defaults. Raises ModelError naming a wrong field."""
        check_fields(cls, values, "decoding")
        try:
            return cls(**values)
        except CaptionkitError as error:
            raise ModelError(f"decoding: {error}") from None
