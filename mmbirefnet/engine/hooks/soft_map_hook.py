"""Pictures of soft maps during validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmbirefnet.datasets.transforms.decode import read_image
from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class SoftMapHook(Hook):
    """Draws the first images of each validation: image, mask and soft map side by side.

    The pictures go to all backends of the visualizer (folder, TensorBoard, WandB), under one name per image, so that
    its maps can be followed over the epochs.

    Args:
        images: how many to draw; 0 for none.
        interval: draw in every so many-th validation.
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
        """Draw what is left to draw of this batch."""
        for sample in outputs or ():
            if self._drawn >= self.images:
                return
            image = read_image(sample.img_path)[..., ::-1]
            name = f'val_{Path(sample.img_path).stem}'
            runner.visualizer.add_datasample(name, image, data_sample=sample, step=runner.epoch)
            self._drawn += 1
