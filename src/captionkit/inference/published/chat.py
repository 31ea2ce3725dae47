"""The prompt of a model that is asked in a conversation: its chat template about one image, as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.errors import ModelError, one_line
from captionkit.inference.published.families import PROCESSOR_CONFIG, TEMPLATE, TEMPLATE_JSON, TOKENIZER_CONFIG
from captionkit.inference.published.json_files import read_json
from captionkit.utils import paths

if TYPE_CHECKING:
    import tokenizers

#: style of caption -> what is asked
QUESTIONS = {
    "short": "Describe this image in one short sentence.",
    "detailed": "Can you describe this image?",
    "long": "Describe this image in detail, in a paragraph.",
}
IMAGE = "<image>"
_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_MAX_BYTES = 1 << 20


class ChatPrompt:
    """A question about an image, as the chat template in a folder puts it. Raises ModelError where there is none."""

    def __init__(self, path: Path, backend: tokenizers.Tokenizer, style: str, image_length: int) -> None:
        """`image_length` is how many tokens stand for a tile of the image."""
        self._path, self._backend, self._length = path, backend, image_length
        self._settings = _json(path / TOKENIZER_CONFIG)
        self._text = self._rendered(QUESTIONS[style])
        found = backend.token_to_id(IMAGE)
        if found is None or self._text.count(IMAGE) != 1:
            raise ModelError("its chat template or its vocabulary has no place for one image; get the model again")
        #: the token whose embeddings are the image's features
        self.image_id: int = found

    def ids(self, rows: int, columns: int) -> list[int]:
        """Return the prompt's token ids for an image of `rows` x `columns` tiles, 0 x 0 for one that is not split."""
        text = self._text.replace(IMAGE, self._image(rows, columns))
        # As transformers: a template that writes the start token itself gets no second one.
        special = not (self._bos and text.startswith(self._bos))
        return list(self._backend.encode(text, add_special_tokens=special).ids)

    @cached_property
    def start(self) -> int:
        """The prompt's last token, after which the answer begins."""
        return self.ids(0, 0)[-1]

    @property
    def begins_with_space(self) -> bool:
        """Whether a space is between the prompt and the answer's first word."""
        return not self._text[-1:].isspace()

    @property
    def _bos(self) -> str:
        return _text_of(self._settings.get("bos_token"))

    def _image(self, rows: int, columns: int) -> str:
        """Return the text for an image: its tiles by row and column, then the whole."""
        tile = IMAGE * self._length
        lines = [
            "".join(f"{_AROUND}<row_{row}_col_{column}>{tile}" for column in range(1, columns + 1)) + "\n"
            for row in range(1, rows + 1)
        ]
        return "".join([*lines, "\n" if lines else "", _AROUND, _WHOLE, tile, _AROUND])

    def _rendered(self, question: str) -> str:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(reason: str) -> None:
            raise TemplateError(reason)

        # A template comes with the model, so it is run where it reaches nothing, with the settings of transformers.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        content = [{"type": "image"}, {"type": "text", "text": question}]
        given: dict[str, Any] = {name: _text_of(self._settings.get(name)) for name in _SPECIAL}
        given |= {"messages": [{"role": "user", "content": content}], "add_generation_prompt": True}
        try:
            return environment.from_string(_template(self._path, self._settings)).render(given)
        except ModelError:
            raise
        except Exception as error:  # a template can fail in any way that an expression of Python can
            raise ModelError(f"its chat template cannot be used ({one_line(error)}); get the model again") from None


def image_length(path: Path, settings: Mapping[str, Any]) -> int:
    """Return how many tokens stand for a tile, as the processor's or the model's config says. Raises ModelError."""
    stored = _json(path / PROCESSOR_CONFIG).get("image_seq_len")
    if type(stored) is int and stored > 0:
        return stored
    vision = settings.get("vision_config")
    sizes = vision if isinstance(vision, Mapping) else {}
    numbers = (sizes.get("image_size"), sizes.get("patch_size"), settings.get("scale_factor"))
    side, patch, factor = (number if type(number) is int and number > 0 else 0 for number in numbers)
    if not (side and patch and factor):
        raise ModelError(f"has no image_seq_len in {PROCESSOR_CONFIG}; get the model again")
    return (side // patch) ** 2 // factor**2


def _template(path: Path, settings: Mapping[str, Any]) -> str:
    """Return the chat template of a folder, looked for where transformers does, in its order."""
    for name in (PROCESSOR_CONFIG, TEMPLATE_JSON):
        found = _json(path / name).get("chat_template")
        if isinstance(found, str):
            return found
    if (path / TEMPLATE).is_file():
        return paths.read_text(path / TEMPLATE, ModelError, limit=_MAX_BYTES)
    found = settings.get("chat_template")
    if isinstance(found, str):
        return found
    raise ModelError(f"has no chat template ({TEMPLATE}, {TEMPLATE_JSON}); get the model again")


def _text_of(token: Any) -> str:
    """Return a special token's text, which configs state as it is or in a table."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else ""


def _json(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}
