"""A BiRefNet small enough to be trained within a test run, on drawn objects."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]
NANO = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'
SIDE = 96
ITERATIONS, BATCH, RATE = 60, 3, 3e-3
IMAGES = 96
CONFIG = f"""
_base_ = {os.fspath(NANO)!r}
image_size = ({SIDE}, {SIDE})
in_channels = [16, 32, 64, 128]
aspp_cfg = dict(branch_channels=16, kernel_sizes=(1, 3), dilations=(1, 1))
model = dict(
    backbone=dict(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4)),
    neck=dict(in_channels=in_channels, aspp_cfg=dict(_delete_=True, **aspp_cfg)),
    decode_head=dict(
        in_channels=in_channels,
        aspp_cfg=dict(_delete_=True, **aspp_cfg),
        loss_decode=[
            dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
            dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
        ],
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmbirefnet'),
    dict(type='mmbirefnet.Resize', scale=image_size),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""


class TrainedCheckpoint(NamedTuple):
    """A trained model on disk."""

    config: Path
    checkpoint: Path


def train(folder: Path) -> TrainedCheckpoint:
    """Train for about twenty seconds of one core, unless done; mean IoU on drawings of other sets 0.75."""
    config, checkpoint = folder / 'birefnet_pico.py', folder / 'birefnet_pico.pth'
    if checkpoint.exists():
        return TrainedCheckpoint(config, checkpoint)
    config.write_text(CONFIG)
    samples = [make_sample(0, 'DIS-TR', index, (SIDE, SIDE)) for index in range(IMAGES)]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))[:, None].float() / 255
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope('mmseg'):
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(config).model)
        logging.disable()  # a line a parameter
        model.init_weights()
        logging.disable(logging.NOTSET)
        _fit(model.train(), images, masks)
    write_checkpoint(checkpoint, model.state_dict(), {})
    return TrainedCheckpoint(config, checkpoint)


def _fit(model, images, masks) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=ITERATIONS, pct_start=0.1)
    for iteration in range(ITERATIONS):
        chosen = torch.randperm(len(images))[:BATCH]
        flips = [3] if iteration % 2 else []
        samples = []
        for mask in masks[chosen].flip(flips):
            sample = SegDataSample(metainfo=dict(ori_shape=(SIDE, SIDE), img_shape=(SIDE, SIDE)))
            sample.gt_sem_seg = PixelData(data=mask)
            samples.append(sample)
        batch = dict(inputs=list(images[chosen].flip(flips)), data_samples=samples)
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def iou(soft_map: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of a map in [0, 1] and a mask in 0..255, both cut in the middle."""
    predicted, true = soft_map > 0.5, mask > 127
    return float((predicted & true).sum() / (predicted | true).sum())
