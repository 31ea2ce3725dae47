"""Captions as the text answers of conversations, which the APIs of OpenAI and Ollama share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Caption, Outcome
from captionkit.inference.search import Decoding
from captionkit.serve.errors import named, raise_if_all_failed
from captionkit.serve.logs import log_captions
from captionkit.serve.request_parsing import decode_images
from captionkit.serve.service import Service


@dataclass(frozen=True)
class Question:
    """What a request of a conversation asks for."""

    #: images to caption, as (place in the request, the image as it was sent)
    images: Sequence[tuple[str, str]]
    decoding: Decoding
    #: how this API sends an image, for the answer to a request that has none
    how: str
    #: the most words that the request allows
    most_words: int | None = None
    choices: int = 1
    #: texts before the first of which the answer ends
    stops: Sequence[str] = ()


@dataclass(frozen=True)
class TextAnswer:
    """One answer, with a line for each image."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]
    #: milliseconds that the model took before the first word, and for the words
    encode_ms: float = 0.0
    decode_ms: float = 0.0

    def stopped(self, stops: Sequence[str], count: Callable[[str], int]) -> TextAnswer:
        """Return the answer truncated at the first occurrence of any stop sequence, with the tokens that are left."""
        found = [place for stop in stops if (place := self.text.find(stop)) >= 0]
        if not found:
            return self
        text = self.text[: min(found)]
        return TextAnswer(text, sum(map(count, text.splitlines())), "stop", self.encode_ms, self.decode_ms)

    def pieces(self) -> Iterator[str]:
        """Return the text word by word, for streaming."""
        return iter(re.findall(r"\s*\S+|\s+", self.text))


async def answer(question: Question, request: Request, service: Service) -> list[TextAnswer]:
    """Return the answers, best first. Among several images, one without a caption has the error as its line.

    Without any image, the answer says what the model does. Raises CaptionkitError if no image has a caption.
    """
    answers = await _captioned(question, request, service) if question.images else _introduced(question, service.model)
    return [one.stopped(question.stops, service.count_tokens) for one in answers]


async def _captioned(question: Question, request: Request, service: Service) -> list[TextAnswer]:
    images = await decode_images(question.images, request, service.settings)
    found = await service.caption_all([data for _, data in images], question.decoding)
    raise_if_all_failed(found)
    log_captions(request, found)
    names = [name for name, _ in images]
    choices = min(len(outcome.captions) for outcome in found if isinstance(outcome, Outcome))
    return [_described(names, found, choice, question.decoding.max_length) for choice in range(choices)]


def _described(names: Sequence[str], found: Sequence[Outcome | CaptionkitError], choice: int, most: int) -> TextAnswer:
    lines: list[str] = []
    captions: list[Caption] = []
    encode = decode = 0.0
    for name, outcome in zip(names, found, strict=True):
        if isinstance(outcome, CaptionkitError):
            lines.append(f"[{named(outcome, name)}]")
        else:
            captions.append(outcome.captions[choice])
            lines.append(captions[-1].text)
            encode += outcome.ms["open"] + outcome.ms["encode"]
            decode += outcome.ms["decode"]
    cut = any(len(caption.tokens) >= most for caption in captions)
    tokens = sum(len(caption.tokens) for caption in captions)
    return TextAnswer("\n".join(lines), tokens, "length" if cut else "stop", encode, decode)


def _introduced(question: Question, model: str) -> list[TextAnswer]:
    """Return the answers to a request without images: clients often probe a service with a short text."""
    words = (
        f"This is {model}, an image captioner of captionkit: it describes images and does nothing else, "
        f"so send it one, {question.how}."
    ).split()
    shown = words[: question.most_words]
    finish: Literal["stop", "length"] = "stop" if len(shown) == len(words) else "length"
    return [TextAnswer(" ".join(shown), len(shown), finish)] * question.choices
