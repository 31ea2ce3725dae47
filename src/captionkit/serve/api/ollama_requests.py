"""Requests of Ollama's API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from captionkit.serve.api.answers import Question
from captionkit.serve.api.conversation import MostWords, Stops, listed
from captionkit.serve.errors import RefusalError
from captionkit.serve.options import conversation_options, decoding_fields
from captionkit.serve.service import Service

_HOW = "as base64 in the field images"


def _without_limit(most: Any) -> Any:
    return None if isinstance(most, int) and most < 1 else most  # Ollama's -1 and -2 are no limit either


class ModelOptions(BaseModel):
    """The supported options of Ollama's models. Those of /v1/captions are accepted as well, all others ignored."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    num_predict: Annotated[MostWords, BeforeValidator(_without_limit)] = Field(
        None, description="most words of a caption; -1: as many as the model's makers chose"
    )
    do_sample: bool | None = Field(None, description="sample; else temperature, top_k and top_p do nothing")
    stop: Stops = Field(None, description="texts before the first of which the answer ends")

    def question(self, images: list[tuple[str, str]], service: Service) -> Question:
        """Return what is asked for of `images`, given as (place in the request, image)."""
        given, usual = conversation_options(self.model_extra), service.captioner.decoding
        fields = decoding_fields(given, usual, do_sample=self.do_sample, words=self.num_predict)
        decoding = service.decoding(**{**fields, "num_captions": 1})
        return Question(images, decoding, _HOW, most_words=self.num_predict, stops=listed(self.stop))


NO_OPTIONS = ModelOptions.model_validate({})


class OllamaRequest(BaseModel, ABC):
    """The fields that generate and chat share. Fields that ask for what captions are not are rejected."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str | None = Field(None, description="whatever it is, the one model answers")
    stream: bool | None = Field(None, description="false: the answer as a whole; else a line of JSON for each word")
    options: ModelOptions | None = None
    format: Any = Field(None, description="no other than text is to be had")
    think: bool | str | None = Field(None, description="the model does not")
    logprobs: bool | None = Field(None, description="none are to be had")
    keep_alive: float | str | None = Field(None, description="the model stays loaded in any case")

    @property
    @abstractmethod
    def only_loads(self) -> bool:
        """Whether the request has no content, which loads a model."""

    @property
    def unloads(self) -> bool:
        """Whether the request would unload the model; nothing does, but clients wait for the answer that says so."""
        return str(self.keep_alive) in ("0", "0.0", "0s", "0m")

    def question(self, service: Service) -> Question:
        """Return what is asked for."""
        return (self.options or NO_OPTIONS).question(self._images(), service)

    @abstractmethod
    def _images(self) -> list[tuple[str, str]]:
        """Return the images as (place in the request, image)."""

    def check(self, model: str) -> None:
        """Raise RefusalError (400) for fields that ask for output that captions do not provide."""
        if self.format:
            raise RefusalError(400, "format: captions are plain text; leave it out")
        if self.think:
            raise RefusalError(400, f"think: {model!r} does not support thinking; leave it out")
        if self.logprobs:
            raise RefusalError(400, "logprobs: captions are plain text and nothing besides; leave it out")


class GenerateRequest(OllamaRequest):
    """The supported fields of /api/generate; all others are ignored."""

    prompt: str | None = Field(None, description="ignored, since the model takes no prompt")
    images: list[str] | None = Field(None, description="images in base64")

    @property
    def only_loads(self) -> bool:
        """Whether the request has no content, which loads a model."""
        return not self.prompt and not self.images

    def _images(self) -> list[tuple[str, str]]:
        return [(f"images[{n}]", image) for n, image in enumerate(self.images or [])]


class OllamaChatMessage(BaseModel):
    """A message. Its text is ignored."""

    role: str
    content: str | None = None
    images: list[str] | None = Field(None, description="images in base64")


class OllamaChatRequest(OllamaRequest):
    """The supported fields of /api/chat; all others are ignored."""

    messages: list[OllamaChatMessage] | None = Field(None, max_length=1000)

    @property
    def only_loads(self) -> bool:
        """Whether the request has no content, which loads a model."""
        return not self.messages

    def _images(self) -> list[tuple[str, str]]:
        """Return the images of the user's last turn that has any.

        A turn may be several messages: some clients send one for each image, and their prompt in the last.
        """
        found: list[tuple[str, str]] = []
        for place, message in reversed(list(enumerate(self.messages or []))):
            if found and message.role == "assistant":
                break
            here = [(f"messages[{place}].images[{n}]", image) for n, image in enumerate(message.images or [])]
            found = here + found
        return found


class ShowRequest(BaseModel):
    """The name of a model."""

    model: str | None = None
    name: str | None = Field(None, description="the same, as older clients send it")

    @model_validator(mode="after")
    def _one(self) -> ShowRequest:
        if not self.asked:
            raise ValueError("name the model, in the field model")
        return self

    @property
    def asked(self) -> str:
        """The model's name."""
        return self.model or self.name or ""
