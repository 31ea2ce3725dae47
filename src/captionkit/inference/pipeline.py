"""`captionkit.pipeline("image-to-text")`: what transformers' pipeline of that name gave, until version 5 removed it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from captionkit.errors import CaptionkitError, ImageError
from captionkit.inference.load import load

if TYPE_CHECKING:
    from captionkit.inference.captioner import Captioner, Outcome

TASK = "image-to-text"
#: options of transformers' generate -> those of captionkit.Decoding
_RENAMED = {"max_new_tokens": "max_length", "min_new_tokens": "min_length", "num_return_sequences": "num_captions"}
_SAME = (
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "length_penalty",
    "min_length",
    "max_length",
    "no_repeat_ngram_size",
    "temperature",
    "top_k",
    "top_p",
)
_TAKEN = (*_RENAMED, *_SAME, "do_sample", "early_stopping")

Record = dict[str, str]


class ImageToTextPipeline:
    """Captions images: a path, bytes, a PIL image or an array gives a list of records, a list of them a list of lists.

    A record is {"generated_text": caption}; there are as many as `num_return_sequences`. An iterator or a dataset gives
    an iterator.
    """

    def __init__(self, captioner: Captioner, *, batch_size: int = 1, **generate_kwargs: Any) -> None:
        """`batch_size` and `generate_kwargs` are the defaults of calls."""
        self.captioner, self._batch_size, self._usual = captioner, batch_size, generate_kwargs

    def __call__(
        self,
        images: Any,
        *,
        prompt: str = "",
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Caption `images`; `prompt` is the beginning of each caption.

        `generate_kwargs` are options of transformers' generate such as num_beams; `max_new_tokens` is one of them.
        Raises ImageError at the first image that cannot be captioned, CaptionkitError for an option that is not known.
        """
        chosen = {**self._usual, **(generate_kwargs or {})}
        if max_new_tokens is not None:
            chosen["max_new_tokens"] = max_new_tokens
        decoding = decoding_options(chosen)
        if prompt:
            decoding["prefix"] = prompt
        several = isinstance(images, (list, tuple))
        single = not several and not _is_many(images)
        sources = [images] if single else images
        outcomes = self.captioner.stream(sources, batch_size=batch_size or self._batch_size, **decoding)
        found = (_records(outcome) for outcome in outcomes)
        if several:
            return list(found)
        return next(found) if single else found


def pipeline(
    task: str = TASK,
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | int | None = None,
    batch_size: int = 1,
    precision: str = "auto",
    **generate_kwargs: Any,
) -> ImageToTextPipeline:
    """Return a pipeline for `task` "image-to-text", with the `model` that `captionkit.load` takes.

    device: as for `captionkit.load`, or as transformers names it: -1 for the CPU, 0 or "cuda:0" for a GPU.
    generate_kwargs: defaults of each call, such as max_new_tokens.

    Raises CaptionkitError.
    """
    if task != TASK:
        raise CaptionkitError(f"task {task!r} is none of captionkit's; use {TASK!r}")
    decoding_options(generate_kwargs)
    captioner = load(model, device=_device(device), precision=precision)
    return ImageToTextPipeline(captioner, batch_size=batch_size, **generate_kwargs)


def decoding_options(generate_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of transformers' generate as options of captionkit. Raises CaptionkitError for unknown ones."""
    given = {name: value for name, value in generate_kwargs.items() if value is not None}
    for name in given:
        if name not in _TAKEN:
            raise CaptionkitError(f"generate_kwargs: {name!r} is not known; use some of {', '.join(_TAKEN)}")
    found = {name: given[name] for name in _SAME if name in given}
    found |= {ours: given[theirs] for theirs, ours in _RENAMED.items() if theirs in given}
    if "max_length" in given and "max_new_tokens" not in given:
        found["max_length"] = max(1, given["max_length"] - 1)  # it counts the start token
    if "early_stopping" in given:
        found["early_stopping"] = str(given["early_stopping"]).lower()
    if given.get("do_sample"):
        return {"temperature": 1.0, **found}
    for name in ("temperature", "top_k", "top_p"):  # which transformers ignores too
        found.pop(name, None)
    return found


def _device(device: str | int | None) -> str:
    if device is None or device == -1:
        return "cpu"
    if isinstance(device, int):
        return "cuda"
    return str(device).partition(":")[0]


def _is_many(images: Any) -> bool:
    """Return whether `images` is an iterator or a dataset rather than one image."""
    if isinstance(images, Iterator):
        return not hasattr(images, "read")
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "__array_interface__")
    return not one and not hasattr(images, "read") and isinstance(images, Iterable)


def _records(outcome: Outcome) -> list[Record]:
    if outcome.caption is None:
        raise ImageError(outcome.error)
    return [{"generated_text": caption.text} for caption in outcome.captions]
