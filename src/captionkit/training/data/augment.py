"""Random crops and colours of images."""

from __future__ import annotations

import numpy as np

from captionkit.data.images import Box, Colour


def random_crop(generator: np.random.Generator, smallest: float) -> Box | None:
    """A box, as shares of an image's sides, of at least `smallest` of its area; None for all of it.

    As for Inception (Szegedy et al. 2015, arXiv 1409.4842, section 6): the area is uniform, and the shape, relative to
    the image's own, log-uniform from 3:4 to 4:3. Relative, since an image that is squashed is squashed when it is
    captioned too.
    """
    if smallest >= 1:
        return None
    area, shape = generator.uniform(smallest, 1), np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(np.sqrt(area * shape), 1.0)
    height = min(area / width, 1.0)
    width = area / height  # a side that would be longer than the image's gives what is over to the other
    left, top = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    return left, top, left + width, top + height


def random_colour(generator: np.random.Generator, strength: float) -> Colour | None:
    """Factors from 1 - `strength` to 1 + `strength`, uniform and each by itself; None where there is no change."""
    if not strength:
        return None
    return Colour(*generator.uniform(1 - strength, 1 + strength, 3).tolist())
