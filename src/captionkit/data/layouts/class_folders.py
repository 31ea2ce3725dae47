"""Class folders, named after what their images show: NAME/1.jpg, or train/NAME/1.jpg and the same in valid/ and test/.

Captions are made from the names by templates, such as "a photo of a northern cardinal": the built-in ones, which hold
for every image of a class, or the lines of templates.txt in the root. Folders with codes for names (n01440764, 17) are
named by names.txt in the root, one line each: the folder, a space or tab, its name; ImageNet's LOC_synset_mapping.txt
is such a file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captionkit.data.layouts.assemble import Place, StatedImage
from captionkit.data.layouts.caption_set import Problem, split_of_folder
from captionkit.data.layouts.image_finder import is_image_folder
from captionkit.data.layouts.reading import peek_line, read_lines
from captionkit.errors import DatasetError
from captionkit.utils.paths import IMAGE_SUFFIXES

LOOKS_FOR = "folders called after what their images show (NAME/1.jpg), here or in train/, valid/, test/"
TEMPLATES_FILE, NAMES_FILE = "templates.txt", "names.txt"
TEMPLATES = ("a {name}", "a photo of a {name}", "this is a {name}")

_MOST_TEMPLATES = 100
_CAPTION_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".token", ".caption", ".txt")
_WORDNET = re.compile(r"n\d{8}")
_DATE = re.compile(r"(19|20)\d\d[-_.]?[01]\d(?!\d{3})")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass
class _Listing:
    """The direct contents of a folder, names sorted; hidden names are skipped.

    links: linked folders whose target is inside the folder anyway; other linked folders count as folders.
    """

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    closed: str = ""

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        listing = cls()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            listing.closed = str(error.strerror)
            return listing
        for entry in entries:
            name = entry.name.casefold()
            if name.startswith("."):
                continue
            if entry.is_dir():
                again = entry.is_symlink() and _is_inside(entry.path, folder)
                (listing.links if again else listing.folders).append(entry.name)
            elif name.endswith(IMAGE_SUFFIXES):
                listing.images.append(entry.name)
            elif name.endswith(_CAPTION_SUFFIXES):
                listing.captions.append(entry.name)
        return listing


def _is_inside(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def detect(place: Place) -> list[Path]:
    """Return the parents of the class folders: the split folders, or the root; none if images lie elsewhere."""
    if place.file:
        return []
    parents = place.split_folders()
    known = place.root / NAMES_FILE
    found = [parent for parent in parents or [place.root] if _holds_classes(parent, known, least=1 if parents else 2)]
    others = [parent for parent in parents if parent not in found]
    return found if not any(_has_images(other) for other in others) else []


def _holds_classes(parent: Path, known: Path, *, least: int) -> bool:
    """Return whether every image in `parent` lies in one of at least `least` folders with class names."""
    inside = _Listing.of(parent)
    listings = {name: _Listing.of(parent / name) for name in inside.folders}
    full = [name for name, listing in listings.items() if listing.images]
    if inside.images or len(full) < least or any(map(is_image_folder, full)):
        return False
    if any(listing.captions or _deeper(parent / name, listing) for name, listing in listings.items()):
        return False
    named = [name for name in full if _WORDNET.match(name) or (name_of(name) and not _DATE.match(name))]
    return known.is_file() or 2 * len(named) > len(full)


def _deeper(folder: Path, listing: _Listing) -> bool:
    return any(_has_images(folder / name) for name in listing.folders)


def _has_images(folder: Path) -> bool:
    return any(
        name.casefold().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )


def read(place: Place, files: list[Path]) -> Iterator[StatedImage | Problem]:
    """Yield the images, by split, class and name; an image's id is its path from the root."""
    templates, stated = templates_of(place.root), _stated_names(place.root / NAMES_FILE)
    images: dict[str, dict[str, int]] = {}  # name -> split -> number of images
    for parent in files:
        split = "" if parent == place.root else split_of_folder(parent.name) or ""
        yield from _read_classes(place, parent, split, templates, stated, images)
    yield from _sparse(place, images)
    yield from _unread(place, files)


def _read_classes(
    place: Place,
    parent: Path,
    split: str,
    templates: Sequence[str],
    stated: Mapping[str, str],
    images: dict[str, dict[str, int]],
) -> Iterator[StatedImage | Problem]:
    inside = _Listing.of(parent)
    folders: dict[str, list[str]] = defaultdict(list)
    for link in inside.links:
        yield Problem("linked folder", place.name(parent / link), "leads to a folder that is read already")
    for folder in inside.folders:
        where, listing = place.name(parent / folder), _Listing.of(parent / folder)
        name = stated.get(folder) or name_of(folder)
        if listing.closed:
            yield Problem("unreadable folder", where, listing.closed)
        elif not listing.images:
            yield Problem("empty class", where, "a folder without images; put some into it, or remove it")
        elif not name:
            detail = f"the folder's name is a code; say what it stands for in {NAMES_FILE}, as '{folder} tabby cat'"
            yield Problem("class without a name", where, f"{detail} (images left out: {len(listing.images)})")
        else:
            folders[name].append(where)
            counts = images.setdefault(name, {})
            counts[split] = counts.get(split, 0) + len(listing.images)
            captions = [caption_of(template, name) for template in templates]
            for image in listing.images:
                path = f"{where}/{image}"
                yield StatedImage(path, path, captions, split, where, place.root, label=name)
    for name, places in folders.items():
        if len(places) > 1:
            detail = f"all are called {name!r} and treated as one class; name them apart in {NAMES_FILE}"
            yield Problem("classes of one name", ", ".join(places), detail)


def _sparse(place: Place, images: Mapping[str, Mapping[str, int]]) -> Iterator[Problem]:
    """Yield problems of classes with too little training data."""
    if len(images) == 1:
        detail = "with one class every caption is the same; add folders of other classes"
        yield Problem("one class only", next(iter(images)), detail)
    trained = any("train" in splits for splits in images.values())
    for name, splits in images.items():
        if sum(splits.values()) == 1:
            yield Problem("class of one image", name, "a name cannot be learned from one image; add more")
        elif trained and "train" not in splits:
            yield Problem("class without training images", name, f"only in {', '.join(splits)}; add some to train/")


def _unread(place: Place, files: list[Path]) -> Iterator[Problem]:
    root = _Listing.of(place.root)
    if files != [place.root]:
        parents = {file.name for file in files}
        for folder in root.folders:
            if folder not in parents and _has_images(place.root / folder):
                yield Problem("unread folder", folder, "lies beside the splits; its images are left out")
    for name in root.captions:
        table = name.casefold().endswith(_CAPTION_SUFFIXES[:-1])
        # a table of the classes, as in "BIRDS 525 SPECIES", adds nothing
        if table and not re.search("label|class", peek_line(place.root / name).casefold()):
            yield Problem("unread file", name, "if it holds captions, name its layout; captions come of the folders")


def templates_of(root: Path) -> Sequence[str]:
    """Return the lines of the root's templates.txt, or the default templates.

    Raises DatasetError for an invalid template.
    """
    file = root / TEMPLATES_FILE
    if not file.is_file():
        return TEMPLATES
    templates = []
    for number, line in read_lines(file):
        template = " ".join(line.split())
        if re.findall(r"\{name\}|[{}]", template) != ["{name}"]:
            raise DatasetError(
                f"{file}, line {number}: a template holds {{name}} once and no other braces, as 'a photo of a {{name}}'"
            )
        templates.append(template)
    if not 0 < len(templates) <= _MOST_TEMPLATES:
        raise DatasetError(f"{file}: {len(templates)} templates; write from 1 to {_MOST_TEMPLATES}, a line each")
    return tuple(dict.fromkeys(templates))


def _stated_names(file: Path) -> Mapping[str, str]:
    """Return names by folder from names.txt."""
    if not file.is_file():
        return {}
    names = {}
    for number, line in read_lines(file):
        folder, _, rest = line.strip().partition("\t" if "\t" in line else " ")
        name = _worded(rest)
        if not name:
            raise DatasetError(f"{file}, line {number}: write a folder, a space or tab, and a name: 'n02123045 tabby'")
        names[folder] = name
    return names


def name_of(folder: str) -> str:
    """Return the class name of a folder in lower-case words; empty if the folder's name is a code.

    "NORTHERN CARDINAL", "n01530575-northern_cardinal", "017.Northern_Cardinal", "NorthernCardinal.017" and
    "northern-cardinal" are all "northern cardinal".
    """
    name = re.sub(r"^n\d{8}([-_. ]+|$)", "", folder)
    name = re.sub(r"^\d+[-_.]\s*(?=[^\W\d_])", "", name)
    name = re.sub(r"\.\d+$", "", name)
    if not re.search(r"[\s_+]", name):  # hyphens and capitals separate words only if nothing else does
        name = re.sub(r"(?<=[a-z]{2})(?=[A-Z][a-z])", " ", name.replace("-", " "))
    return _worded(name)


def _worded(name: str) -> str:
    """Return lower-case words up to the first comma, after which ImageNet lists synonyms.

    Empty if there is no letter.
    """
    words = " ".join(re.split(r"[\s_+]+", name.partition(",")[0])).strip().lower()
    return words if _LETTER.search(words) else ""


def caption_of(template: str, name: str) -> str:
    """Insert the name into the template, with "a" or "an" before it as its sound requires."""
    said = re.sub(r"\b(a)n?(?= \{name\})", r"\1" + ("n" if _takes_an(name) else ""), template, flags=re.IGNORECASE)
    return said.replace("{name}", name)


#: words that start with a vowel letter but a consonant sound, like "unit" and "one", and the reverse
_CONSONANT = re.compile(r"eu|ew|uni(?![nm])|u[bkst][aeiou]|usb|ukr|u[rt]i|ural|ufo\b|ones?\b|once\b|u\b")
_VOWEL = re.compile(r"[aeiou]|heir|honou?r|hones|hour(?!i)|[fhlmnrsx]\b|8|1[18]\b")


def _takes_an(name: str) -> bool:
    plain = unicodedata.normalize("NFD", name)  # "é" begins with "e"
    return bool(_VOWEL.match(plain)) and not _CONSONANT.match(plain)
