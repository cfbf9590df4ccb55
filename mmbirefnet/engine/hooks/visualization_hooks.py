"""Images of the first training batch, and of soft maps during validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmbirefnet.datasets.transforms.decode import read_image
from mmbirefnet.registry import HOOKS
from mmbirefnet.visualization import SheetRow, draw_contact_sheet


@HOOKS.register_module()
class SoftMapHook(Hook):
    """Draw the first images of each validation: image, mask and prediction side by side.

    The figures go to all backends of the visualizer (folder, TensorBoard, Weights & Biases). An image has the same name
    in all epochs, so you can follow its predictions.

    Args:
        images: Number of images; 0 for none.
        interval: Draw in every ``interval``-th validation.

    Raises:
        ValueError: If an argument is out of range.
    """

    priority = 'LOW'

    def __init__(self, images: int = 8, interval: int = 1) -> None:
        if images < 0 or interval < 1:
            raise ValueError(f'SoftMapHook: expected images >= 0 and interval >= 1, got {images} and {interval}')
        self.images = images
        self.interval = interval
        self._validations = 0
        self._drawn = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting images."""
        self._drawn = 0 if self._validations % self.interval == 0 else self.images
        self._validations += 1

    @master_only
    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the images of this batch that are among the first ones."""
        for sample in outputs or ():
            if self._drawn >= self.images:
                return
            image = read_image(sample.img_path)[..., ::-1]
            name = f'val_{Path(sample.img_path).stem}'
            runner.visualizer.add_datasample(name, image, data_sample=sample, step=runner.epoch)
            self._drawn += 1


@HOOKS.register_module()
class FirstBatchHook(Hook):
    """Draw the first batch, after all augmentations, to ``first_batch.png`` in the log folder of the run.

    Each row has an image, its mask, and the image where the mask is above one half. It shows wrong pairs, inverted
    masks and augmentations that are too strong at the start of a run.

    Args:
        images: Maximum number of images.
        width: Width of a panel in pixels.
    """

    def __init__(self, images: int = 8, width: int = 320) -> None:
        self.images = images
        self.width = width

    @master_only
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Draw the batch if it is the first one of this process."""
        if self.images < 1 or data_batch is None:
            return
        rows = []
        for image, sample in [*zip(data_batch['inputs'], data_batch['data_samples'])][: self.images]:
            image = np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1])  # uint8 BGR to RGB
            mask = np.rint(sample.gt_sem_seg.data[0].numpy() * 255).astype(np.uint8)
            gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            rows.append(SheetRow(image, mask, np.where(mask > 127, gray, 0).astype(np.uint8)))
        path = Path(runner.log_dir) / 'first_batch.png'
        cv2.imwrite(str(path), draw_contact_sheet(rows, self.width)[..., ::-1])
        runner.logger.info(f'FirstBatchHook: the first batch is drawn in {path}')
        self.images = 0
