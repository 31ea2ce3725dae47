"""The token file of Flickr8k and Flickr30k, "name.jpg#0<TAB>caption", with lists of each split's images.

Hodosh, Young and Hockenmaier 2013: Flickr8k.token.txt with Flickr_8k.trainImages.txt, Flickr_8k.devImages.txt and
Flickr_8k.testImages.txt, here or in Flickr8k_text/. Young et al. 2014: results_20130124.token. Without lists,
everything is one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, split_of_file
from captionkit.data.layouts.reading import read_lines

LOOKS_FOR = "Flickr8k.token.txt or results_*.token, here or in Flickr8k_text/"


def detect(place: Place) -> list[Path]:
    """Return the token files, without Flickr8k.lemma.token.txt, whose words are lemmatised."""
    return [file for file in place.files("*.token", "*.token.txt") if "lemma" not in file.name.casefold()]


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images in the order of the split lists, or else of the token files."""
    captions: dict[str, list[object]] = {}
    for file in files:
        yield from _collect_captions(file, place.name(file), captions)
    source = place.name(files[0])
    lists = _split_lists(place)
    listed: set[str] = set()
    for path in lists:
        for _, line in read_lines(path):
            name = line.strip()
            if name not in captions and f"{name}.jpg" in captions:  # Flickr30k's lists omit the suffix
                name = f"{name}.jpg"
            listed.add(name)
            yield StatedImage(name, name, captions.get(name, []), split_of_file(path.stem) or "", place.name(path))
    for name, texts in captions.items():
        if not lists:
            yield StatedImage(name, name, texts, "", source)
        elif name not in listed:
            yield Problem(
                "image in no split", name, f"{source}: not in any split list (captions left out: {len(texts)})"
            )


def _collect_captions(file: Path, source: str, captions: dict[str, list[object]]) -> Iterator[Problem]:
    for number, line in read_lines(file):
        key, tab, caption = line.partition("\t")
        name, mark, _ = key.rpartition("#")
        if tab and mark:
            captions.setdefault(name.strip(), []).append(caption)
        else:
            yield Problem("malformed row", f"{source}, line {number}", "not of the form name.jpg#0<TAB>caption")


def _split_lists(place: Place) -> list[Path]:
    texts = Place(place.root).files("*.txt")  # of the folder, even if the user named the token file
    return [path for path in texts if split_of_file(path.stem) and "token" not in path.name.casefold()]
