"""Alt text: one sentence in place of an image, for those who do not see it.

After the W3C's advice (https://www.w3.org/WAI/tutorials/images/): what the image shows, shortly, without saying that it
is an image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from captionkit.errors import CaptionkitError

if TYPE_CHECKING:
    from captionkit.inference.captioner import Caption, Outcome
    from captionkit.inference.search import Decoding

MAX_CHARS = 125
"""After this many characters, some screen readers start over."""

LEAST_CHARS = 30
_GUESS = "May show "
_IMAGE_OF = re.compile(
    r"(there is |this is |here is )?((an?|the|this|some|two) )?"
    r"((black[- ]and[- ]white|colou?r|blurry|old|vintage|stock) )*"
    r"(image|photo|photograph|picture|pic|snapshot)s? (of|showing|that shows|which shows|with) ",
    re.IGNORECASE,
)
#: words that lead to a next one, so that no text ends in them
_LEADING = {
    *("a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "your", "our", "some"),
    *("and", "or", "but", "nor", "so", "as", "at", "by", "for", "from", "in", "into", "of", "off", "on", "onto", "out"),
    *("over", "than", "to", "up", "upon", "with", "without", "while", "is", "are", "was", "were", "be", "being"),
    *("been", "has", "have", "had", "next", "front", "near", "under", "above", "behind", "beside", "between"),
    *("through", "who", "which", "whose", "where", "when", "very", "two", "three", "four", "five", "several"),
}


def check_max_chars(value: int) -> None:
    """Raise CaptionkitError if an alt text of at most `value` characters could say nothing."""
    if value < LEAST_CHARS:
        raise CaptionkitError(f"--max-chars is {value}; use a whole number from {LEAST_CHARS}")


def alt_text(captions: Sequence[str], *, max_chars: int = MAX_CHARS, guess: bool = False) -> str:
    """Return the first of the captions that fits as a sentence, or else the best one's beginning, cut between words.

    Args:
        captions: of one image, best first; at least one.
        max_chars: of the sentence.
        guess: word it as one: "May show ...".
    """
    return _chosen(captions, max_chars, guess)[1]


def search_options(decoding: Decoding) -> dict[str, int]:
    """Return the options with which a search tells its whole beam, as another hypothesis may fit if the best does not.

    Samples have no other hypotheses.
    """
    return {} if decoding.temperature else {"num_captions": decoding.num_beams}


def as_alt_text(outcome: Outcome, *, max_chars: int = MAX_CHARS, wanted: int = 1) -> Outcome:
    """Return an outcome whose `wanted` best captions are alt texts, the one to use first.

    Captions marked for review are worded as guesses.
    """
    captions = outcome.captions
    if not captions:
        return outcome
    first, text = _chosen([caption.text for caption in captions], max_chars, bool(captions[0].review))
    others = [_worded(caption, max_chars) for number, caption in enumerate(captions) if number != first]
    best = replace(captions[first], text=text, alternatives=tuple(others[: wanted - 1]))
    return replace(outcome, caption=best)


def _worded(caption: Caption, max_chars: int) -> Caption:
    text = alt_text([caption.text], max_chars=max_chars, guess=bool(caption.review))
    return replace(caption, text=text, alternatives=())


def _chosen(captions: Sequence[str], max_chars: int, guess: bool) -> tuple[int, str]:
    for number, caption in enumerate(captions):
        text = _sentence(_plain(caption), guess)
        if text and len(text) <= max_chars:
            return number, text
    return 0, _sentence(_shortened(_plain(captions[0]), max_chars - len(_GUESS) * guess - 1), guess)


def _plain(caption: str) -> str:
    """Return a caption on one line, without a leading "an image of" and a closing full stop."""
    text = " ".join(caption.split()).rstrip(" .")
    return _IMAGE_OF.sub("", text, count=1) if _IMAGE_OF.match(text) else text


def _sentence(text: str, guess: bool) -> str:
    if not text:
        return ""
    begun = _GUESS + _lowered(text) if guess else text[0].upper() + text[1:]
    return begun if begun[-1] in "!?。！？" else f"{begun}."


def _lowered(text: str) -> str:
    """Return the text with a small first letter, unless the first word is a name such as TV or DNA."""
    first = text.split(" ", 1)[0]
    return text if len(first) > 1 and first.isupper() else text[0].lower() + text[1:]


def _shortened(text: str, most: int) -> str:
    """Return the beginning of a text, of at most `most` characters, ended after a word that may end a sentence."""
    if len(text) <= most:
        return text
    words = text[: most + 1].split(" ")[:-1]
    while len(words) > 1 and words[-1].casefold().strip(",;:") in _LEADING:
        words.pop()
    return " ".join(words).rstrip(",;:-") or text[:most]  # one word longer than all: no language with spaces
