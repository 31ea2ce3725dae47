"""What a model says of twenty images that packages ship and that may be shown: a Markdown table, confidence beside it.

    python bench/quality.py [--model MODEL]

The images come with scikit-image (public domain or CC0, see its `data/README.txt`) and matplotlib (public domain). The
last eight are unlike anything that a captioner of photos was taught: their captions should be of little confidence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import skimage.data

import captionkit

#: what each image shows, told by a person who looked at it
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
    """The file of an image, in whichever of the two packages ships it."""
    own = Path(skimage.data.__file__).parent / name
    return own if own.exists() else Path(mpl.get_data_path()) / "sample_data" / name


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, Hub id, or the bundled model")
    model = captionkit.load(parser.parse_args().model)
    print("| image | shows | caption | confidence |\n|---|---|---|---|")
    for name, shows in IMAGES.items():
        caption = model.caption(find(name))
        print(f"| `{name}` | {shows} | {caption.text} | {caption.confidence:.0%} |")


if __name__ == "__main__":
    main()
