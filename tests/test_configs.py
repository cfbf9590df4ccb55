"""Every config builds, and its file name says what is in it."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS

from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import infer_backbone_name

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
NAME = re.compile(
    r'(?P<algorithm>[^_]+)_(?P<backbone>[\w-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<epochs>\d+)e'
    r'_(?P<dataset>[\w-]+)-(?P<width>\d+)x(?P<height>\d+)'
)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_name_and_content(path):
    cfg = Config.fromfile(path)
    name = NAME.fullmatch(path.stem)
    assert name, 'names are {algorithm}_{backbone}_{gpus}xb{batch}-{epochs}e_{dataset}-{size}'
    assert cfg.train_dataloader.batch_size == int(name['batch'])
    assert cfg.train_cfg.max_epochs == int(name['epochs'])
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        (scale,) = (step.scale for step in pipeline if step.type == 'mmbirefnet.Resize')
        assert tuple(scale) == (int(name['width']), int(name['height']))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if path.parent.name.startswith('birefnet') and name['backbone'] != 'swin-nano':
        assert infer_backbone_name(model.state_dict()) == name['backbone']
    frozen = 'backbone.' if cfg.model.backbone.get('frozen') else ()
    assert all(value.requires_grad for key, value in model.named_parameters() if not key.startswith(frozen))


def test_size_of_the_published_model():
    """Figures of the reference for Swin-T, in millions of parameters."""
    (path,) = (path for path in CONFIGS if path.stem.startswith('birefnet_swin-t_'))
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(path).model)

    def millions(module):
        return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1)

    assert millions(model.backbone) == 27.5
    assert millions(model.neck) == 4.1
    assert millions(model.decode_head) == 12.7


@pytest.mark.parametrize('registry', [MODELS, MMSEG_MODELS, MMENGINE_MODELS], ids=lambda registry: registry.scope)
def test_builds_from_any_registry(registry):
    """Also where nobody has set a default scope."""
    (path,) = (path for path in CONFIGS if path.stem.startswith('birefnet_swin-nano_'))
    with DefaultScope.overwrite_default_scope('mmengine'), torch.device('meta'):
        assert type(registry.build(Config.fromfile(path).model)) is BiRefNet
