"""After a short training the coarse mask selects one of two objects."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pico import CONFIG, SIDE, iou

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.transforms import CoarseMask, PackDichotomousInputs
from mmbirefnet.registry import MODELS

ITERATIONS, BATCH, RATE = 100, 4, 3e-3
DEGRADED = dict(prob=0.4, drop=0.1, select=1.0)


def draw(rng):
    """An image with two objects of one color, uint8 BGR, and the mask of each."""
    image = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8) + rng.integers(0, 100, 3).astype(np.uint8)
    color = rng.integers(160, 256, 3).tolist()
    masks = []
    for left in rng.permutation([0, SIDE // 2]):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        center = int(left + SIDE // 4 + rng.integers(-4, 5)), int(rng.integers(SIDE // 4, 3 * SIDE // 4))
        axes = tuple(int(axis) for axis in rng.integers(10, 18, 2))
        cv2.ellipse(mask, center, axes, float(rng.integers(180)), 0, 360, 255, cv2.FILLED)
        image[mask > 0] = color
        masks.append(mask)
    return image, masks


def fit(model):
    rng = np.random.default_rng(0)
    degrade, pack = CoarseMask(**DEGRADED), PackDichotomousInputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=ITERATIONS, pct_start=0.1)
    for _ in range(ITERATIONS):
        items = []
        for _ in range(BATCH):
            image, masks = draw(rng)
            shapes = dict(img_shape=image.shape[:2], ori_shape=image.shape[:2])
            items.append(pack(degrade(dict(img=image, gt_seg_map=np.maximum(*masks), **shapes))))
        batch = {key: [item[key] for item in items] for key in ('inputs', 'data_samples')}
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@pytest.mark.soak
def test_the_mask_selects_the_object(tmp_path):
    (tmp_path / 'pico.py').write_text(CONFIG)
    cfg = Config.fromfile(tmp_path / 'pico.py').model
    cfg.update(type='mmbirefnet.GuidedBiRefNet')
    cfg.data_preprocessor.type = 'mmbirefnet.GuidedDataPreProcessor'
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg)
    model.init_weights()
    fit(model.train())

    inferencer, rng = BiRefNetInferencer(model), np.random.default_rng(1)
    degrade = CoarseMask(prob=0.4, drop=0, select=0, seed=0)
    chosen, other, union, both = [], [], [], []
    for index in range(50):
        image, masks = draw(rng)
        for which in range(2):
            guide = degrade(dict(gt_seg_map=masks[which], stem=f'{index}-{which}'))['guide']
            soft_map = inferencer(image, guide=np.uint8(guide * 255), input_size=SIDE)
            chosen.append(iou(soft_map, masks[which]))
            other.append(iou(soft_map, masks[1 - which]))
            both.append(iou(guide, masks[which]))
        union.append(iou(inferencer(image, input_size=SIDE), np.maximum(*masks)))
    means = [float(np.mean(values)) for values in (chosen, other, both, union)]
    print('IoU with the object of the mask, with the other one, of the mask itself, without a mask:', *means)
    assert means[0] > 0.8
    assert means[1] < 0.1
