"""Check the tables of the backbones page against the models."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from doc_blocks import blocks, table
from golden import image
from mmengine.config import Config

from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[3]
NAME = 'docs/en/advanced_guides/backbones.md'
PAGE = (ROOT / NAME).read_text('utf-8')
EXPERIMENT = 'birefnet_{}_8xb4-500e_dis5k-1024x1024'


def config(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs/birefnet' / f'{EXPERIMENT.format(name)}.py')


@pytest.mark.parametrize('row', table(NAME, 'backbone'), ids=lambda row: row[0])
@pytest.mark.soak(keep=3)
def test_parameters(row):
    name, whole, trained, backbone, _, channels, network, _ = row
    cfg = config(name).model
    with torch.device('meta'):
        model = MODELS.build(cfg)
    parameters = list(model.parameters())
    counts = [parameters, [p for p in parameters if p.requires_grad], model.backbone.parameters()]
    assert [f'{sum(p.numel() for p in part) / 1e6:.1f}' for part in counts] == [whole, trained, backbone]
    scales = [int(number) for number in re.findall(r'\d+(?=,|$)', channels.removesuffix(', stride 16'))]
    assert cfg.backbone_channels == (scales * 4 if 'stride 16' in channels else scales)
    assert {'timm': 'mmbirefnet.TIMM', 'mmbirefnet': 'mmbirefnet.Swin'}.get(network, network) in cfg.backbone.type
    metafile = yaml.safe_load((ROOT / 'configs/birefnet/metafile.yml').read_text())
    (entry,) = (model for model in metafile['Models'] if model['Name'] == EXPERIMENT.format(name))
    count = sum(p.numel() for p in parameters)
    assert entry['Metadata'].get('Parameters', count) == count


def test_every_config_is_in_the_table():
    stems = {path.stem for path in (ROOT / 'configs/birefnet').glob(f'{EXPERIMENT.format("*")}.py')}
    assert stems == {EXPERIMENT.format(row[0]) for row in table(NAME, 'backbone')}


@pytest.mark.soak
def test_parameters_and_flops_of_the_table(capsys, monkeypatch):
    """The snippet that counts, run for two of them."""
    monkeypatch.chdir(ROOT)
    (snippet,) = blocks(NAME, 'flops')
    work = {row[0]: f'{row[1]} M, {row[4]} GFLOP\n' for row in table(NAME, 'backbone')}
    for name in ('pvtv2-b0', 'r50'):
        exec(snippet.replace('pvtv2-b0', name), {})
        assert capsys.readouterr().out == work[name]


def test_convnext_example_of_the_page(tmp_path, monkeypatch):
    (snippet,) = blocks(NAME, 'convnext')
    path = tmp_path / 'convnext.py'
    path.write_text(snippet.replace("'configs/", f"'{ROOT}/configs/"))
    model = MODELS.build(Config.fromfile(path).model).eval()
    with torch.no_grad():
        assert model(image(0, 1, 64, 64), mode='tensor').shape == (1, 1, 64, 64)


@pytest.mark.parametrize('row', table(NAME, '`type`'), ids=lambda row: row[0].strip('`'))
@pytest.mark.soak(keep=3)
def test_other_backbones(row):
    kind, arguments, channels = row
    backbone = MODELS.build(eval(f'dict(type={kind.strip("`")!r}, {arguments.strip("`")})'))
    maps = backbone(image(0, 2, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (int(c), side, side) for c, side in zip(channels.split(', '), (16, 8, 4, 2), strict=True)
    ]
    sum(x.sum() for x in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
