"""Three training steps against those of the reference implementation, in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, reference_state_dict
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict

CONFIG = Path(__file__).parents[2] / 'configs/birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py'
LOGITS = 'decoder.conv_out1.0.weight'


def samples(masks: np.ndarray) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(mask).double())) for mask in masks]


@pytest.mark.soak
def test_losses_and_changes_of_three_steps():
    golden = np.load(GOLDEN / 'trajectory_swin_t.npz')
    expected = json.loads((GOLDEN / 'trajectory_swin_t.json').read_text())
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    reference = reference_state_dict()
    converted = convert_birefnet_state_dict(reference)
    model.load_state_dict(converted, strict=True)
    model.double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}

    losses = []
    for i, masks in enumerate(golden['masks']):
        loss, _ = model.parse_losses(model(image(60 + i, 3, 96, 160).double(), samples(masks), mode='loss'))
        losses.append(loss.item())
        optim_wrapper.update_params(loss)
    for i, tolerance in enumerate((1e-7, 1e-5, 5e-3)):
        assert losses[i] == pytest.approx(golden['losses'][i], rel=tolerance), i

    end = dict(model.named_parameters())
    names = {id(value): name for name, value in converted.items()}  # those that conversion only renames
    assert len(expected) == 23
    for key, norms in expected.items():
        parts = ['decode_head.conv_logits.weight', 'decode_head.conv_logits_inward.weight']
        parts = parts if key == LOGITS else [names[id(reference[key])]]
        before, after = (torch.cat([state[name].flatten() for name in parts]) for state in (start, end))
        relative = ((after - before).norm() / before.norm()).item()
        assert relative == pytest.approx(norms['relative'], rel=0.02), key
