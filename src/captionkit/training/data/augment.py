"""Random crops and colour jitter."""

from __future__ import annotations

import numpy as np

from captionkit.data.images import Box, Colour


def random_crop(generator: np.random.Generator, smallest: float) -> Box | None:
    """Draw a crop box with at least the share `smallest` of the image's area; None for the whole image.

    The box is in fractions of the image's sides. As for Inception (Szegedy et al. 2015, arXiv 1409.4842, section 6),
    the area is uniform and the aspect ratio log-uniform from 3:4 to 4:3, but relative to that of the image: an image
    that is squashed in training is squashed in inference too.
    """
    if smallest >= 1:
        return None
    area, shape = generator.uniform(smallest, 1), np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(np.sqrt(area * shape), 1.0)
    height = min(area / width, 1.0)
    width = area / height  # keep the area if one side was clipped to the image's
    left, top = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    return left, top, left + width, top + height


def random_colour(generator: np.random.Generator, strength: float) -> Colour | None:
    """Draw independent uniform factors in [1 - `strength`, 1 + `strength`]; None if `strength` is 0."""
    if not strength:
        return None
    return Colour(*generator.uniform(1 - strength, 1 + strength, 3).tolist())
