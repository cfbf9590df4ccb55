"""What an inferencer needs of something that predicts."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Predicts foreground probabilities of a batch of images.

    Attributes:
        name: What messages call it.
        input_size: (height, width) it was trained at, in pixels.
        fixed_size: Whether it takes images of ``input_size`` only.
        max_batch: Largest batch; ``None`` for any.
        takes_guide: Optional: whether images may have a coarse mask (gray level) as a fourth channel. ``False`` if it
            is missing.
    """

    name: str
    input_size: tuple[int, int]
    fixed_size: bool
    max_batch: int | None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict.

        Args:
            images: uint8 RGB ``(N, H, W, 3)``, H and W multiples of 32.

        Returns:
            Probability of the foreground, float32 ``(N, H, W)``.
        """
        ...
