"""Alt text: whole sentences within the limit, chosen among hypotheses, and guesses that say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import captionkit
from captionkit.cli import main as cli
from captionkit.publish.alt_text import alt_text

EXAMPLE = str(Path(captionkit.__file__).parent / "assets" / "examples" / "cat.jpg")
LONG = (
    "a man in a red shirt is standing in front of a large building with many windows and a sign "
    "on the side of the roof next to it"
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog on the grass", "A dog on the grass."),
        ("A dog on the grass.", "A dog on the grass."),
        ("an image of a dog", "A dog."),
        ("There is a black and white photo of two men", "Two men."),
        ("a picture frame on a wall", "A picture frame on a wall."),
        ("a man taking a photo of a dog", "A man taking a photo of a dog."),
        ("is it a dog ?", "Is it a dog ?"),
        ("  a \n dog ", "A dog."),
    ],
)
def test_a_caption_becomes_a_sentence(caption: str, expected: str) -> None:
    assert alt_text([caption]) == expected
    assert alt_text([expected]) == expected


def test_a_guess_says_so() -> None:
    assert alt_text(["a photo of a dog"], guess=True) == "May show a dog."
    assert alt_text(["TV on a table"], guess=True) == "May show TV on a table."
    assert len(alt_text([LONG], guess=True)) <= 125


def test_another_hypothesis_is_taken_where_the_best_is_too_long() -> None:
    assert len(LONG) + 1 > 125  # with its full stop
    assert alt_text([LONG, "a man by a building", "a man"]) == "A man by a building."
    assert alt_text([LONG, "a man by a building", "a man"], max_chars=20) == "A man by a building."
    assert alt_text([LONG]) == (
        "A man in a red shirt is standing in front of a large building with many windows and a sign "
        "on the side of the roof."
    )


WORDS = st.lists(st.from_regex(r"[b-z]{1,12}", fullmatch=True), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(30, 130), st.booleans())
def test_no_text_is_longer_than_allowed_or_ends_within_a_word(words: list[str], most: int, guess: bool) -> None:
    text = alt_text([" ".join(words)], max_chars=most, guess=guess)
    assert 0 < len(text) <= most and text.endswith(".")
    kept = text.removeprefix("May show ").rstrip(".").casefold().split(" ")
    assert kept == words[: len(kept)]


def test_the_command_line_gives_alt_text(capsys: pytest.CaptureFixture[str]) -> None:
    model = captionkit.load()
    assert cli.main(["caption", EXAMPLE, "--style", "alt"]) == 0
    assert capsys.readouterr().out == f"{alt_text([model.caption(EXAMPLE).text])}\n"
    captions = [caption.text for caption in model.stream([EXAMPLE], num_captions=3).__next__().captions]
    most = max(30, min(map(len, captions)) + 1)
    arguments = ["caption", EXAMPLE, "--style", "alt", "--max-chars", str(most), "--min-confidence", "1", "--json"]
    assert cli.main(arguments) == 0
    (caption,) = json.loads(capsys.readouterr().out)["captions"]
    assert caption["review"] and caption["text"].startswith("May show ") and len(caption["text"]) <= most
