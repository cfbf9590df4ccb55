"""A back end for tests of what is around a model: it takes red for the object."""

import numpy as np


class TakesRed:
    """1 where red prevails."""

    input_size, fixed_size, max_batch, name = (96, 128), False, None, 'red'

    def __call__(self, images):
        return (images[..., 0] > 128).astype(np.float32)


def red_square(height=96, width=128, blue=(20, 30, 200), red=(220, 20, 30)):
    """An image (RGB) with a red square on blue, and its map."""
    rgb = np.full((height, width, 3), blue, np.uint8)
    inside = np.zeros((height, width), np.float32)
    inside[height // 4 : height // 2, width // 4 : width // 2] = 1
    rgb[inside > 0] = red
    return rgb, inside
