"""What the bundled model of every release says of twenty images that packages ship and that may be shown.

    python bench/quality.py [--save bench/results/quality.json]
    python bench/quality.py --model MODEL

Prints captions, their confidence, and the CIDEr-D of all twenty. `--save` also keeps them as those of this version, in
quality.json, and writes the tables of all versions, which bench/tables.py puts into docs/quality.md. `--model` names
another model, whose captions are printed alone.

The images come with scikit-image (public domain or CC0, see its `data/README.txt`) and matplotlib (public domain). The
last eight are unlike anything that a captioner of photos was taught: their captions should be of little confidence.
Five references of each, written for this by looking at the images, are in quality_references.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import skimage.data

import captionkit
from captionkit.errors import CaptionkitError
from captionkit.inference.captioner import Captioner
from captionkit.utils.atomic_write import write_text
from captionkit.utils.console import print_message
from tables import Report, add_save, table, tell

#: {version: {image: {"caption": ..., "confidence": ...}}}, the earliest version first
RELEASES = Path(__file__).with_name("quality.json")
REFERENCES = Path(__file__).with_name("quality_references.json")

#: what each image shows
IMAGES = {
    "astronaut.png": "a woman in an orange space suit, before a flag and a model of a shuttle",
    "camera.png": "a man with a camera on a tripod, on grass, in black and white",
    "chelsea.png": "a cat's face",
    "coffee.png": "a cup of coffee on a saucer, with a spoon, on a table",
    "motorcycle_left.png": "a red motorcycle in a garage or workshop",
    "rocket.jpg": "a rocket on its launch pad among tall masts, at night",
    "grace_hopper.jpg": "a woman in a naval uniform before a flag",
    "clock_motion.png": "a disc in fast motion, blurred",
    "coins.png": "rows of old coins",
    "brick.png": "paving of long bricks, from low above",
    "grass.png": "grass, from above",
    "horse.png": "the black silhouette of a horse",
    "moon.png": "the surface of the moon",
    "hubble_deep_field.jpg": "galaxies in deep space",
    "gravel.png": "gravel, from above",
    "page.png": "a page of printed text",
    "text.png": "handwritten formulas",
    "cell.png": "a cell under a microscope",
    "ihc.png": "stained tissue under a microscope",
    "retina.jpg": "the retina of an eye",
}


def find(name: str) -> Path:
    """Return the file of an image, in whichever of the two packages ships it. Raises CaptionkitError."""
    folders = (Path(skimage.data.__file__).parent, Path(mpl.get_data_path()) / "sample_data")
    for path in (folder / name for folder in folders):
        if path.exists():
            return path
    raise CaptionkitError(f"{folders[0]}: {name} is missing; install scikit-image and matplotlib again")


def references() -> dict[str, list[str]]:
    """Return five captions of each image, by its name."""
    return read(REFERENCES)


def read(path: Path) -> dict[str, Any]:
    """Return what a JSON file of this folder holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def captions_of(model: Captioner) -> dict[str, dict[str, Any]]:
    """Caption all images."""
    captions = {name: model.caption(find(name)) for name in IMAGES}
    return {name: {"caption": said.text, "confidence": round(said.confidence, 4)} for name, said in captions.items()}


def cider(captions: Mapping[str, Mapping[str, Any]]) -> float:
    """Return CIDEr-D of the images' captions."""
    candidates = {name: told["caption"] for name, told in captions.items()}
    return captionkit.evaluate(candidates, references(), ["cider"], tokenizer="ptb", resamples=0)["CIDEr-D"]


def report(releases: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Report:
    """Tabulate CIDEr-D of each version, and what each says of an image, one below the other."""
    scores = [[version, f"{cider(said):.3f}"] for version, said in releases.items()]
    rows = [
        ["" if earlier else f"`{name}`: {shows}", version, said[name]["caption"], f"{said[name]['confidence']:.0%}"]
        for name, shows in IMAGES.items()
        for earlier, (version, said) in enumerate(releases.items())
    ]
    return [
        table(["version", "CIDEr-D of the twenty"], scores),
        table(["image", "version", "caption", "confidence"], rows),
    ]


def main() -> None:
    """Print the tables, and keep them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id, instead of the bundled model")
    add_save(parser, "quality")
    options = parser.parse_args()
    if options.model and options.save:
        parser.error("--save keeps the captions of the bundled model; leave out --model")
    try:
        captions = captions_of(captionkit.load(options.model))
        releases = {options.model: captions} if options.model else read(RELEASES) | {captionkit.__version__: captions}
        tell(report(releases), options.save)
        if options.save:
            write_text(RELEASES, json.dumps(releases, indent=1) + "\n")
    except CaptionkitError as error:
        print_message(f"quality: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
