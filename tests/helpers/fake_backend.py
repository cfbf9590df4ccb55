"""A backend whose maps can be worked out by hand."""

import numpy as np


class RedBackend:
    """The map is the red channel; remembers the shapes that it was given."""

    channel = 0
    name, fixed_size, max_batch = 'red', False, None
    input_size = (32, 64)

    def __init__(self, **attributes):
        self.shapes = []
        for key, value in attributes.items():
            setattr(self, key, value)

    def __call__(self, images):
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert images.shape[1] % 32 == images.shape[2] % 32 == 0
        self.shapes.append(images.shape[:3])
        return images[..., self.channel].astype(np.float32) / 255
