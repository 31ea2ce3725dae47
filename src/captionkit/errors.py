"""The failures a user can fix. Each message is one line: what (the file), why, and the way out."""

from __future__ import annotations


class CaptionkitError(Exception):
    """Base of every error that captionkit raises on purpose; the command line prints it without a traceback."""


class ImageError(CaptionkitError):
    """An image cannot be used: unreadable, not an image, truncated, too large."""


class ImageTooLargeError(ImageError):
    """An image has more bytes or pixels than are taken."""


class DatasetError(CaptionkitError):
    """A dataset cannot be read: unknown layout, malformed file, no such split."""


class TokenizerError(CaptionkitError):
    """A tokenizer cannot be built or read."""


class ModelError(CaptionkitError):
    """A model folder cannot be used: missing, damaged, or of another format version."""


class RecipeError(CaptionkitError):
    """A recipe has an unknown field or a value that does not fit."""


class TrainingError(CaptionkitError):
    """A run cannot start, go on or be resumed."""


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip()
