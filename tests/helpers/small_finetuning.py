"""Fine-tuning of a small model on a few generated images."""

from pathlib import Path

import cv2
import torch
from mmengine.config import Config
from small_images import SMALL_IMAGES

from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS

SWIN_L = Path(__file__).parents[2] / 'configs/birefnet/birefnet_swin-l_1xb2-20e_finetune-1024x1024.py'
SMALL_MODEL = """
channels = [16, 32, 64, 128]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)
    ),
    neck=dict(in_channels=channels, aspp_cfg=dict(branch_channels=8)),
    decode_head=dict(in_channels=channels, aspp_cfg=dict(branch_channels=8)),
)
"""


def write_images(folder: Path, indices, names=('images', 'masks'), blur: float = 0, invert: bool = False) -> Path:
    """Write images and masks of 80x96; ``blur`` makes masks soft."""
    for name in names:
        (folder / name).mkdir(parents=True)
    for index in indices:
        sample = make_sample(0, 'own', index, (80, 96))
        mask = cv2.GaussianBlur(sample.mask, (0, 0), blur) if blur else sample.mask
        cv2.imwrite(str(folder / names[0] / f'{index}.jpg'), sample.image)
        cv2.imwrite(str(folder / names[1] / f'{index}.png'), 255 - mask if invert else mask)
    return folder


def write_config(path: Path, base: Path = SWIN_L, more: str = SMALL_MODEL) -> Path:
    """Write a config that inherits from another, with small images, one process, and further lines."""
    evaluator = 'val_evaluator = test_evaluator = dict(num_workers=0)\n'
    path.write_text(f'_base_ = {str(base)!r}\n{SMALL_IMAGES}{evaluator}{more}')
    return path


def write_model(path: Path, config: Path) -> Path:
    """Write a checkpoint of the model of a config, with random weights."""
    torch.manual_seed(0)
    write_checkpoint(path, MODELS.build(Config.fromfile(config).model).state_dict(), {})
    return path
