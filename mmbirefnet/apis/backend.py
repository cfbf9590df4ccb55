"""Interface between the inferencer and the model."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Predicts foreground probabilities of a batch of images.

    Attributes:
        name: Name in messages.
        input_size: (height, width) in pixels that the model was trained at.
        fixed_size: Whether the model accepts only images of ``input_size``.
        max_batch: Largest batch; ``None`` for no limit.
        takes_guide: Whether images may have a coarse mask (gray levels) as a fourth channel. Optional; without the
            attribute they may not.
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
