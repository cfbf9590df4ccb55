"""Configs that cannot be read, and options that nothing reads: an error that names the file or the option."""

import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from bad_files import lengths, outcome
from mmengine.config import Config
from mmengine.registry import Registry

import mmbirefnet.registry
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.engine.launch import load_config
from mmbirefnet.fileio.configs import check_options, read_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'
BROKEN = {
    'syntax.py': b'a = (1,\nb = 2\n',
    'name.py': b'a = b\n',
    'division.py': b'a = 1 / 0\n',
    'no-base.py': b"_base_ = 'none.py'\n",
    'broken-base.py': b"_base_ = 'syntax.py'\n",
    'itself.py': b"_base_ = 'itself.py'\n",
    'null.py': b'a = 1\0\n',
    'latin.py': b'a = "\xff"\n',
    'image.py': b'\x89PNG\r\n\x1a\n',
    'text.txt': b'a = 1\n',
    'no-suffix': b'a = 1\n',
    'half.json': b'{"a": ',
    'half.yaml': b'a: [1',
    'twice.py': b"_base_ = ['one.py', 'other.py']\n",
}


def load(path, **options):
    return load_config(Namespace(config=str(path), cfg_options=options, launcher='none', work_dir=None, local_rank=0))


@pytest.fixture
def folder(tmp_path):
    for name, text in BROKEN.items():
        (tmp_path / name).write_bytes(text)
    for name in ('one', 'other'):
        (tmp_path / f'{name}.py').write_text('a = dict(b=1)\n')
    return tmp_path


@pytest.mark.parametrize('name', BROKEN)
def test_broken_configs(folder, name):
    with pytest.raises(ValueError, match=re.escape(str(folder / name))):
        read_config(folder / name)
    with pytest.raises(SystemExit, match=rf'error: {re.escape(str(folder / name))}: '):
        load(folder / name)
    (folder / 'a.pth').write_bytes(b'')
    with pytest.raises(ValueError, match=re.escape(str(folder / name)) + '|a.pth'):
        BiRefNetInferencer(folder / name, folder / 'a.pth')


def test_no_config(tmp_path):
    for path in (tmp_path / 'none.py', tmp_path):
        with pytest.raises(SystemExit, match=rf'error: {re.escape(str(path))}: '):
            load(path)


def test_cut_off_anywhere(tmp_path):
    """Whole settings are left, or the file is named."""
    text = CONFIG.read_bytes().replace(b'../', f'{ROOT}/configs/'.encode())
    whole, path = Config.fromstring(text.decode(), '.py'), tmp_path / 'cut.py'
    cuts = sorted({*lengths(len(text)), *range(0, len(text), 61)})
    assert len(cuts) > 40
    errors = 0
    for length in cuts:
        path.write_bytes(text[:length])
        found = outcome(read_config, path)
        errors += found is None
        assert found is None or found.keys() <= whole.keys()
    assert errors > 10


def misspelt(name: str, rng: np.random.Generator) -> str:
    position, letter = int(rng.integers(len(name))), 'xqzjk'[rng.integers(5)]
    ways = (name[:position] + name[position + 1 :], name[:position] + letter + name[position + 1 :], name + letter)
    return ways[rng.integers(3)]


@pytest.mark.soak
def test_misspelt_settings():
    cfg = Config.fromfile(CONFIG)
    names = [name for name in cfg if name not in ('data_root', 'lr') and not name.startswith('_')]
    read = [name for name in names if outcome(lambda name: check_options(cfg, {f'{name}.x': 1}) or True, name)]
    assert {'model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'default_hooks'} <= set(read)
    assert not {'image_size', 'train_pipeline'} & set(read)
    count = 0
    for seed in range(100):
        name = read[seed % len(read)]
        wrong = misspelt(name, np.random.default_rng(seed))
        if wrong in cfg or wrong in read:
            continue
        count += 1
        with pytest.raises(SystemExit, match=rf'error: {re.escape(wrong)}.*there is no setting'):
            load(CONFIG, **{f'{wrong}.x': 1})
    assert count > 80


@pytest.mark.parametrize(
    'options',
    [
        {'train_dataloader.dataset.pipeline.99.type': 'X'},
        {'train_dataloader.dataset.pipeline.first.type': 'X'},
        {'train_cfg.max_epochs.more': 1},
    ],
    ids=str,
)
def test_options_of_places_that_are_not_there(options):
    with pytest.raises(SystemExit, match='error: '):
        load(CONFIG, **options)


# What is to be given to each class besides.
NEEDED = dict(
    BiRefHead=dict(in_channels=(8, 16, 32, 64)),
    BiRefNet=dict(backbone={}, decode_head={}),
    GuidedBiRefNet=dict(backbone={}, decode_head={}),
    LoRABiRefNet=dict(backbone={}, decode_head={}),
    MixedDataset=dict(datasets=[], shares=[]),
    PyramidLocalizationModule=dict(in_channels=(8, 16, 32, 64)),
    LocalizationModule=dict(in_channels=(8, 16, 32, 64)),
    TIMMBackbone=dict(model_name='resnet18', out_indices=(1, 2, 3, 4)),
    FolderDataset=dict(data_root='data', split='train'),
    SoftMapVisualizer=dict(name='test'),
    **dict.fromkeys(
        ('CODDataset', 'DIS5KDataset', 'DichotomousDataset', 'GeneralDataset', 'HRSODDataset', 'MattingDataset'),
        dict(data_root='data', lazy_init=True),
    ),
)


def registered() -> list[tuple[Registry, str]]:
    found = []
    for registry in vars(mmbirefnet.registry).values():
        # A loop is built with a runner, in tests of its own.
        if isinstance(registry, Registry) and registry.scope == 'mmbirefnet' and registry.name != 'loop':
            registry.import_from_location()
            found += [(registry, name) for name in registry.module_dict]
    return found


def test_wrong_options_of_every_class():
    """An option that a class does not know is an error, which names the option or the class; none is swallowed."""
    classes = registered()
    assert len(classes) > 45
    for registry, name in classes:
        options = dict(type=f'mmbirefnet.{name}', nonsense=1, **NEEDED.get(name, {}))
        with pytest.raises((TypeError, AttributeError, ValueError), match=rf'nonsense|{name}\(\) takes no arguments'):
            registry.build(options)
