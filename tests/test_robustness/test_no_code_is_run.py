"""Checkpoints that bring code along, in every place and by every way: it is not run."""

import ast
import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from bad_files import outcome
from golden import model_config
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.apis import init_model
from small_training import make_runner, train
from torch import nn

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.engine.resume.checkpoints import is_training_checkpoint, newest_checkpoint
from mmbirefnet.fileio.checkpoints import read_checkpoint, read_state_dict
from mmbirefnet.fileio.restricted_unpickling import load_guarded
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import load_birefnet_state_dict

ROOT = Path(__file__).parents[2]
SMALL = model_config(
    arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4), channels=(16, 32, 64, 128)
)
STATE = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.tensor([0.5]), 'b': torch.arange(3)}


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (os.fspath(self.path), 'w')


def forged(folder: Path, canary: Path) -> list[Path]:
    """Checkpoints with code in each place that pickles have for it, in each container."""
    bait = {'state_dict': STATE, 'meta': {'epoch': 1, 'iter': 1}, 'optimizer': {}, 'message_hub': {}}
    contents = {
        'alone': Canary(canary),
        'parameter': {**STATE, 'c': Canary(canary)},
        'key': {**STATE, ('c', Canary(canary)): 1},
        'meta': {**bait, 'meta': {'epoch': 1, 'iter': 1, 'seed': Canary(canary)}},
        'message_hub': {**bait, 'message_hub': {'log_scalars': [Canary(canary)]}},
        'optimizer': {**bait, 'optimizer': {'state': Canary(canary)}},
    }
    paths = []
    for name, content in contents.items():
        for form in ('zip', 'legacy'):
            paths.append(folder / f'{name}-{form}.pth')
            torch.save(content, paths[-1], _use_new_zipfile_serialization=form == 'zip')
        paths.append(folder / f'{name}-pickle.pth')
        paths[-1].write_bytes(pickle.dumps(content))
    return paths


def entry_points(folder: Path) -> dict:
    """Every way in which the project reads a checkpoint, by path."""
    config = Config(dict(model=SMALL, test_pipeline=[], test_dataloader=dict(dataset={})))
    convert = runpy.run_path(str(ROOT / 'tools/model_converters/birefnet2mmbirefnet.py'))['convert']

    def initialize(path):
        init_cfg = dict(type='Pretrained', checkpoint=str(path))
        module = BaseModule(init_cfg)
        module.layer = nn.Linear(1, 1)
        module.init_weights()

    def initialize_swin(path):
        init_cfg = dict(type='Pretrained', checkpoint=str(path))
        MODELS.build(SMALL['backbone'] | dict(init_cfg=init_cfg)).init_weights()

    def newest(path):
        link = folder / 'work/newest.pth'
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        try:
            assert not is_training_checkpoint(path)
            return newest_checkpoint(link.parent)
        except ValueError as error:
            raise ValueError(str(error).replace(str(link), str(path))) from error

    return {
        'read_state_dict': read_state_dict,
        'read_checkpoint': read_checkpoint,
        'load_birefnet_state_dict': load_birefnet_state_dict,
        'inferencer': lambda path: BiRefNetInferencer(weights=path),
        'inferencer with a config': lambda path: BiRefNetInferencer(config, path),
        'convert': lambda path: convert(path, folder / 'new.pth'),
        'mmengine': lambda path: CheckpointLoader.load_checkpoint(str(path), 'cpu'),
        'load_checkpoint': lambda path: load_checkpoint(nn.Linear(1, 1), str(path), map_location='cpu'),
        "mmseg's init_model": lambda path: init_model(config, str(path), 'cpu'),
        'init_cfg': initialize,
        'init_cfg of Swin': initialize_swin,
        'newest_checkpoint': newest,
    }


@pytest.fixture
def canary(tmp_path):
    """Where a file appears if code of a checkpoint is run."""
    path, bait = tmp_path / 'canary', tmp_path / 'bait.pth'
    torch.save(Canary(path), bait)
    torch.load(bait, weights_only=False).close()
    assert path.exists()
    path.unlink()
    return path


@pytest.mark.parametrize('entry', entry_points(Path()))
def test_no_code_is_run(tmp_path, canary, entry):
    read = entry_points(tmp_path)[entry]
    paths = forged(tmp_path, canary)
    assert len(paths) == 18
    for path in paths:
        assert outcome(read, path) is None, path.name
        assert not canary.exists(), path.name


def test_no_code_is_run_by_a_runner(tmp_path, canary):
    """Testing and resuming, as tools/test.py and tools/train.py do; also of text that is no pickle."""
    run = train(tmp_path / 'run')
    whole = load_guarded(newest_checkpoint(tmp_path / 'run'))
    text = f'open({str(canary)!r}, "w").close()'
    whole['meta']['config'] = text
    Config.fromstring(text, '.py')
    assert canary.exists()  # mmengine's resume would do that
    canary.unlink()
    torch.save(whole, tmp_path / 'text.pth')
    resumed = train(tmp_path / 'resumed', load_from=str(tmp_path / 'text.pth'), resume=True)
    assert resumed.epoch == run.epoch
    assert not canary.exists()
    for content in (Canary(canary), {**whole, 'message_hub': Canary(canary)}):
        torch.save(content, tmp_path / 'forged.pth')
        for number, resume in enumerate((False, True)):
            runner = make_runner(tmp_path / f'other{number}', load_from=str(tmp_path / 'forged.pth'), resume=resume)
            with pytest.raises(ValueError, match=r'forged\.pth: .*not unpickled'):
                runner.load_or_resume()
    assert not canary.exists()


SOURCES = [path for part in ('mmbirefnet', 'tools', 'demo', 'configs') for path in sorted((ROOT / part).rglob('*.py'))]
UNSAFE = {
    'torch.load',
    'torch.jit.load',
    'torch.hub.load',
    'torch.hub.load_state_dict_from_url',
    'load_state_dict_from_url',
    'load_url',
    'model_zoo.load_url',
    'pickle.load',
    'pickle.loads',
    'joblib.load',
    'pandas.read_pickle',
    'eval',
    'exec',
}


def test_nothing_else_unpickles():
    """One function of the project calls ``torch.load``; none unpickles otherwise, or evaluates text."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                pickled = name in ('np.load', 'numpy.load') and 'allow_pickle' in ast.unparse(node)
                if name in UNSAFE or pickled:
                    found.add((str(path.relative_to(ROOT)), name))
    assert found == {('mmbirefnet/fileio/restricted_unpickling.py', 'torch.load')}
