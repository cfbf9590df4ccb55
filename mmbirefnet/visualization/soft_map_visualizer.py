"""Visualizer of predictions beside image and mask."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmseg.visualization import SegLocalVisualizer

from ..registry import VISUALIZERS
from .sheets import bounded_size, fit, side_by_side


@VISUALIZERS.register_module()
class SoftMapVisualizer(SegLocalVisualizer):
    """Show image, mask and prediction side by side.

    It works with mmsegmentation's ``SegVisualizationHook`` (``test.py --show`` and ``--show-dir``), ``MMSegInferencer``
    and ``browse_dataset.py``; mmsegmentation's visualizer only draws class labels.

    Args:
        name: Name of the instance.
        longest: Maximum height and width of each panel in pixels.
        kwargs: See ``mmseg.visualization.SegLocalVisualizer``.
    """

    def __init__(self, name: str = 'visualizer', longest: int = 1024, **kwargs) -> None:
        super().__init__(name, **kwargs)
        self.longest = longest

    @torch.no_grad()
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw a sample, and show it, write it to ``out_file``, or pass it to the backends.

        Args:
            name: Name of the image.
            image: RGB uint8 (H, W, 3).
            data_sample: Sample with ``gt_sem_seg`` and ``seg_logits`` (probabilities), (1, H, W) each; a missing one
                is omitted.
            draw_gt: Whether to show the mask.
            draw_pred: Whether to show the prediction.
            show: Whether to open a window.
            wait_time: Seconds that the window stays open; 0 waits for a key.
            out_file: Path of an image to write.
            step: Training step of the image.
            with_labels: Ignored, since predictions have no labels.
        """
        figure = self.draw(image, data_sample, draw_gt, draw_pred)
        self._image = figure
        if show:
            self.show(figure, win_name=name, wait_time=wait_time)
        if out_file is not None:
            if not cv2.imwrite(str(out_file), figure[..., ::-1]):
                raise OSError(f'cannot write the image {out_file}')
        else:
            self.add_image(name, figure, step)

    def get_image(self) -> np.ndarray:
        """The last figure, RGB uint8 (H, W', 3)."""
        return self._image

    def draw(
        self,
        image: np.ndarray,
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
    ) -> np.ndarray:
        """The figure that ``add_datasample`` draws, RGB uint8 (H, W', 3)."""
        size = bounded_size(image.shape, self.longest)
        panels = [image]
        if draw_gt and data_sample is not None and 'gt_sem_seg' in data_sample:
            panels.append(to_gray(data_sample.gt_sem_seg.data))
        if draw_pred and data_sample is not None and 'seg_logits' in data_sample:
            panels.append(to_gray(data_sample.seg_logits.data))
        return side_by_side([fit(panel, size) for panel in panels])


def to_gray(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert floats (1, H, W) in [0, 1], or integer labels 0 and 1, to gray levels, uint8 (H, W)."""
    values = torch.as_tensor(values).detach().cpu()
    values = values[0] if values.ndim == 3 else values
    values = values.float() if values.is_floating_point() else (values > 0).float()
    return (values * 255).round().clamp(0, 255).to(torch.uint8).numpy()
