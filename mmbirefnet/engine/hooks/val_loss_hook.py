"""Training losses of the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from statistics import fmean

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample
from torch.nn.parallel import DistributedDataParallel

from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class ValLossHook(Hook):
    """Add the training losses to the metrics of each validation: ``loss`` and its terms, named as in training.

    They are computed for each image separately, with the model in evaluation mode and the loss weights of the current
    epoch, and averaged over the images of all processes. As in training, masks have the size of the model input; they
    are resized bilinearly (class indices by nearest neighbor). This needs a second forward pass per image.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which logs the metrics

    @staticmethod
    def adds_metric(name: str) -> bool:
        """Whether this hook adds the key to a validation, by mmengine's naming of losses."""
        return 'loss' in name

    def before_val_epoch(self, runner: Runner) -> None:
        """Clear the losses of the last validation."""
        self._losses: list[dict[str, float]] = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Compute the losses of a batch, image by image; gradients are disabled in validation."""
        forward = runner.model
        model = forward.module if is_model_wrapper(forward) else forward
        data = model.data_preprocessor(data_batch, False)
        images = list(zip(data['inputs'], data['data_samples']))
        rounds = len(images)
        # A wrapper's forward pass may wait for the other processes, which may have fewer images (round_up=False).
        if isinstance(forward, DistributedDataParallel):
            forward = model  # mmengine's validation does not use the wrapper either
        elif forward is not model:
            rounds = _largest(rounds)
        for index in range(rounds):
            image, sample = images[min(index, len(images) - 1)]
            losses = forward(image[None], [with_mask_of_size(sample, image.shape[1:])], mode='loss')
            if index < len(images):
                _, values = model.parse_losses(losses)
                self._losses.append({name: value.item() for name, value in values.items()})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Average over the images of all processes, without repeated images of the last batch."""
        rounds = zip_longest(*all_gather_object(self._losses))
        images = [losses for losses in chain.from_iterable(rounds) if losses is not None]
        images = images[: len(runner.val_dataloader.dataset)]
        metrics.update({name: fmean(losses[name] for losses in images) for name in images[0]})


def _largest(number: int) -> int:
    """The largest of the numbers of all processes."""
    numbers = torch.tensor(number)
    all_reduce(numbers, 'max')
    return int(numbers)


def with_mask_of_size(sample: SegDataSample, size: Sequence[int]) -> SegDataSample:
    """Copy a sample with its mask resized to the model input.

    Args:
        sample: Sample whose ``gt_sem_seg`` is a mask ``(1, H, W)`` of any size: floats in [0, 1], or class indices.
        size: (H, W) of the input. Where the data preprocessor padded the image, the mask is padded with 255, which
            losses ignore.

    Raises:
        ValueError: If the sample has no mask.
    """
    if 'gt_sem_seg' not in sample:
        raise ValueError(f'{sample.get("img_path")}: no mask; ValLossHook needs masks of all validation images')
    mask = sample.gt_sem_seg.data[None]
    left, right, top, bottom = sample.get('img_padding_size', (0, 0, 0, 0))
    inner = (size[0] - top - bottom, size[1] - left - right)
    if mask.shape[2:] != inner:
        if mask.is_floating_point():
            mask = F.interpolate(mask, inner, mode='bilinear', align_corners=False)
        else:
            mask = F.interpolate(mask.double(), inner, mode='nearest').to(mask.dtype)
    mask = F.pad(mask, (left, right, top, bottom), value=255)
    return SegDataSample(metainfo=sample.metainfo, gt_sem_seg=PixelData(data=mask[0]))
