"""Decoding settings, stored in a model's config and overridden by callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, wraps
from typing import Any, TypeVar

from captionkit.errors import CaptionkitError, ModelError
from captionkit.utils.dataclasses import check_fields, nearest
from captionkit.utils.deprecation import warn_renamed

T = TypeVar("T")

#: names before version 0.2 -> present names, which are those of transformers' GenerationConfig where it has the option
RENAMED = {
    "beam": "num_beams",
    "no_repeat": "no_repeat_ngram_size",
    "groups": "num_beam_groups",
    "diversity": "diversity_penalty",
    "words": "force_words",
    "banned_words": "bad_words",
    "horizon": "early_stop_horizon",
}


def present_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return decoding options under their present names. Raises CaptionkitError for one that has both its names."""
    for old in options.keys() & RENAMED.keys():
        if RENAMED[old] in options:
            raise CaptionkitError(f"{old} is the old name of {RENAMED[old]}, which is given too; leave out {old}")
    return {RENAMED.get(name, name): value for name, value in options.items()}


def _with_old_names(kind: type[T]) -> type[T]:
    """Let a dataclass take and give the fields of RENAMED by their old names too, with a FutureWarning."""
    init, known = kind.__init__, {entry.name for entry in fields(kind)}  # type: ignore[arg-type]

    @wraps(init)
    def taking_both(self: T, *values: Any, **named: Any) -> None:
        for old in named.keys() & RENAMED.keys():
            warn_renamed(old, RENAMED[old])
            named[RENAMED[old]] = named.pop(old)  # instead of the present value, which `dataclasses.replace` adds
        for name in named.keys() - known:
            raise CaptionkitError(f"there is no decoding option {name!r}; {nearest(name, known)}")
        init(self, *values, **named)

    def by_old_name(self: T, name: str) -> Any:
        if name not in RENAMED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn_renamed(name, RENAMED[name])
        return getattr(self, RENAMED[name])

    kind.__init__ = taking_both  # type: ignore[method-assign, assignment]
    kind.__getattr__ = by_old_name  # type: ignore[attr-defined]
    return kind


#: values of `early_stopping`
STOPPING = ("exact", "false", "true", "never")


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field with its help text (command line and REST service) and its minimum and maximum."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@cache
def _numbers() -> list[tuple[str, type, float, float]]:
    """Return the numeric settings: name, type, minimum and maximum."""
    known = [(setting, setting.metadata["low"], setting.metadata["high"]) for setting in fields(Decoding)]
    return [(setting.name, type(setting.default), low, high) for setting, low, high in known if high is not None]


@_with_old_names
@dataclass(frozen=True)
class Decoding:
    """Decoding settings. Use `dataclasses.replace` to override fields; an invalid value raises CaptionkitError.

    With a `temperature` of 0, captions come from beam search:

    num_beams: hypotheses kept live at each step; 1 is greedy search.
    num_captions: captions per image, at most `num_beams`.
    length_penalty: score = log_prob / length**length_penalty, where length counts the words and the end token.
    num_beam_groups: parts of the beam, each of which avoids the words of earlier ones; must divide `num_beams`. If
        groups end in the same caption all the same, fewer than `num_captions` are returned.
    early_stop_horizon: the number of further words assumed, at most, when checking whether a live hypothesis can still
        beat the finished ones; 1 stops the search much earlier and rarely changes a caption. 0: up to `max_length`, so
        that no possible winner is missed.
    diversity_penalty: penalty, in nats, on a word for each hypothesis of an earlier group that has it at the same
        position.
    force_words: words and phrases that every caption contains, matched by token: "dog" is also in "dog's".
    early_stopping: "exact" stops once no live hypothesis can win; "false", "true" and "never" end the search as
        `early_stopping` of transformers' `generate` does, with its other rules (see `transformers_beam_search`):
        lengths then count the end token, and `no_repeat_ngram_size` lets a word follow itself. Models published with
        transformers use these; groups and forced words are searched for as with "exact".

    Above 0 they are sampled, `num_captions` independent ones, whatever `num_beams` is:

    temperature: divides the log-probabilities; 1 samples from the model's own probabilities.
    top_k: sample from this many likeliest words only; 0 for all.
    top_p: sample from the fewest likeliest words whose total probability reaches this; 1 for all.
    seed: another seed gives other captions; the same seed gives the same captions for the same image.

    In both cases:

    min_length, max_length: words in a caption (strictly, tokens), without the end token, including a prefix.
    no_repeat_ngram_size: no run of this many words occurs twice in a caption, and no word follows itself; 0 allows
        repetition. Repetition within a prefix is allowed.
    bad_words: words and phrases that no caption contains.
    prefix: text that every caption begins with.
    """

    # The maxima bound the memory for tracing, steps x B x K x G floats.
    num_beams: int = _setting(3, "hypotheses kept alive; 1 is greedy", 1, 1000)
    num_captions: int = _setting(1, "captions of each image, best first", 1, 1000)
    # A negative length penalty would break the bound used for early stopping.
    length_penalty: float = _setting(1.0, "score = log-probability / length ** this", 0, 10)
    min_length: int = _setting(1, "fewest words of a caption", 0, 1000)
    max_length: int = _setting(30, "most words of a caption", 1, 1000)
    no_repeat_ngram_size: int = _setting(
        0, "no run of N words twice in a caption, no word twice in a row; 0: off", 0, 1000
    )
    num_beam_groups: int = _setting(1, "parts of the beam that avoid each other's words; for several captions", 1, 1000)
    diversity_penalty: float = _setting(0.5, "how strongly groups avoid each other's words, in nats", 0, 100)
    temperature: float = _setting(0.0, "above 0, sample; 1: with the model's own probabilities", 0, 100)
    top_k: int = _setting(0, "sample from the N likeliest words; 0: from all", 0, 1_000_000)
    top_p: float = _setting(1.0, "sample from the likeliest words that together have this probability", 0, 1)
    seed: int = _setting(0, "seed of the samples", 0, 2**63 - 1)
    bad_words: tuple[str, ...] = _setting((), "words and phrases never to say")
    prefix: str = _setting("", "what captions begin with, for instance 'a photo of'")
    force_words: tuple[str, ...] = _setting((), "words and phrases that every caption contains")
    early_stopping: str = _setting(
        "exact", f"when beam search ends: {', '.join(STOPPING)}; all but exact as transformers"
    )
    early_stop_horizon: int = _setting(
        0, "stop once no caption can win within N words more; 0: within max_length", 0, 1000
    )

    def __post_init__(self) -> None:
        for name, kind, low, high in _numbers():
            self._check_number(name, kind, low, high)
        if not isinstance(self.prefix, str):
            raise CaptionkitError(f"prefix is {self.prefix!r}; use a text")
        for name in ("bad_words", "force_words"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(isinstance(phrase, str) for phrase in value):
                raise CaptionkitError(f"{name} is {value!r}; use a list of words or phrases")
            object.__setattr__(self, name, tuple(value))  # JSON has lists
        if self.early_stopping not in STOPPING:
            raise CaptionkitError(f"early_stopping is {self.early_stopping!r}; use one of {', '.join(STOPPING)}")
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
        if self.num_captions > self.num_beams:
            raise CaptionkitError(
                f"num_captions is {self.num_captions}, but must be <= num_beams, which is {self.num_beams}; "
                "raise num_beams"
            )
        if self.num_beams % self.num_beam_groups:
            near = self.num_beams + self.num_beam_groups - self.num_beams % self.num_beam_groups
            raise CaptionkitError(
                f"num_beam_groups is {self.num_beam_groups}, but must divide num_beams, which is {self.num_beams}; "
                f"use num_beams {near}"
            )
        for name, off in (("top_k", 0), ("top_p", 1)):
            if getattr(self, name) != off:
                raise CaptionkitError(
                    f"{name} is {getattr(self, name)}, which is for sampling; set a temperature too, for instance 1"
                )

    def _check_sampling(self) -> None:
        if self.top_p == 0:
            raise CaptionkitError("top_p is 0, so that no word can come; use a number above 0, at most 1")
        if self.num_beam_groups > 1:
            raise CaptionkitError(
                f"num_beam_groups is {self.num_beam_groups}, but sampling has no beam to divide; "
                "leave out num_beam_groups or the temperature"
            )
        if self.force_words:
            raise CaptionkitError(
                f"force_words such as {self.force_words[0]!r} are searched for, not sampled; "
                "leave out force_words or the temperature"
            )

    def divisor(self, length: int) -> float:
        """Return the divisor of a caption's log-probability for its score.

        `length` counts the words and the end token.
        """
        return length**self.length_penalty

    def furthest(self, length: int) -> int:
        """Return the longest token count that a hypothesis of `length` words plus the next token can reach."""
        longest = self.max_length + 1
        return min(longest, length + 1 + self.early_stop_horizon) if self.early_stop_horizon else longest

    @property
    def has_text(self) -> bool:
        """Return whether there is text that must be converted to token ids."""
        return bool(self.bad_words or self.prefix or self.force_words)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a model's config stores them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        """Read what `to_dict` wrote, also before options were renamed; missing fields take their defaults.

        Raises ModelError naming a wrong field.
        """
        try:
            named = present_names(values) if isinstance(values, Mapping) else values
            check_fields(cls, named, "decoding")
            return cls(**named)
        except CaptionkitError as error:
            raise error if isinstance(error, ModelError) else ModelError(f"decoding: {error}") from None
