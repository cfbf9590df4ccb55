"""Checkpoints that are broken, forged, or of something else: an error that names the file, and no code is run."""

import ast
import io
import os
import pickle
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import changed, lengths, outcome, wrong_kinds
from golden import model_config, reference_shapes
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.apis import init_model
from safetensors.torch import save, save_file
from small_training import make_runner, train
from torch import nn

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.engine.newest_checkpoint import is_training_checkpoint, newest_checkpoint
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import load_birefnet_state_dict
from mmbirefnet.utils.checkpoint_io import read_checkpoint, read_state_dict
from mmbirefnet.utils.safe_load import load_guarded

ROOT = Path(__file__).parents[2]
CHANGED, MUTATED = 60, 30
SMALL = model_config(
    arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
    channels=(16, 32, 64, 128),
    aspp_cfg=dict(branch_channels=8),
)
SMALL['neck']['aspp_cfg'] = dict(branch_channels=8)


def packed(state: dict, form: str) -> bytes:
    if form == 'safetensors':
        return save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=form == 'zip')
    return buffer.getvalue()


FORMS = {'zip': 'a.pth', 'legacy': 'a.pth', 'safetensors': 'a.safetensors'}
STATE = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.tensor([0.5]), 'b': torch.arange(3)}


def equal(found: dict, state: dict) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize('form', FORMS)
def test_cut_off(tmp_path, form):
    data, path = packed(STATE, form), tmp_path / FORMS[form]
    cuts = sorted({*lengths(len(data)), *range(0, len(data), 37)})
    assert len(cuts) > 30
    for length in cuts:
        path.write_bytes(data[:length])
        found = outcome(read_state_dict, path)
        assert found is None or equal(found, STATE), length


@pytest.mark.parametrize('form', FORMS)
def test_changed(tmp_path, form):
    """A .pth file has checksums: what is read of it is right. Files of before torch 1.6 and .safetensors have none."""
    path = tmp_path / FORMS[form]
    for case in changed({path.name: packed(STATE, form)}, CHANGED):
        path.write_bytes(case.data)
        found = outcome(read_state_dict, path)
        assert found is None or form != 'zip' or equal(found, STATE), case.name


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMS)
def test_changed_in_many_ways(tmp_path, form):
    path = tmp_path / FORMS[form]
    for case in changed({path.name: packed(STATE, form)}, 3000, seed=1):
        path.write_bytes(case.data)
        found = outcome(read_state_dict, path)
        assert found is None or form != 'zip' or equal(found, STATE), case.name


def test_no_checkpoint(tmp_path):
    for case in wrong_kinds(('.pth', '.safetensors')):
        (tmp_path / case.name).write_bytes(case.data)
        assert outcome(read_state_dict, tmp_path / case.name) is None, case.name
    for name in ('folder.pth', 'folder.safetensors'):
        (tmp_path / name).mkdir()
        assert outcome(read_state_dict, tmp_path / name) is None
    with zipfile.ZipFile(tmp_path / 'other.pth', 'w') as archive:
        archive.writestr('readme.txt', 'an archive of something else')
    assert outcome(read_state_dict, tmp_path / 'other.pth') is None


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_not_finite(tmp_path, value, dtype):
    wrong = torch.ones(2, 3, dtype=dtype)
    wrong[1, 2] = value
    state = {'good': torch.ones(2), 'wrong.weight': wrong}
    for nest in (lambda x: x, lambda x: {'state_dict': x, 'meta': {}}, lambda x: {'model': {'state_dict': x}}):
        torch.save(nest(state), tmp_path / 'a.pth')
        for read in (read_state_dict, lambda path: CheckpointLoader.load_checkpoint(str(path), 'cpu')):
            with pytest.raises(ValueError, match=r'a\.pth: 1 parameters hold NaN or Inf, such as wrong\.weight'):
                read(tmp_path / 'a.pth')
    save_file(state, tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match=r'a\.safetensors: 1 parameters hold NaN or Inf'):
        read_state_dict(tmp_path / 'a.safetensors')


def test_averages_that_are_not_finite(tmp_path):
    """Which mmengine keeps beside the parameters."""
    content = dict(state_dict={'a': torch.ones(1)}, ema_state_dict={'b': torch.full((1,), torch.nan)}, meta={})
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: 1 parameters hold NaN or Inf, such as b:'):
        read_checkpoint(tmp_path / 'a.pth')


def mutate(state: dict, rng: np.random.Generator) -> str:
    """Make parameters those of no model, in place; say how."""
    keys = [key for key, value in state.items() if value.ndim and value.is_floating_point()]
    key = keys[rng.integers(len(keys))]
    value = state[key]
    ways = {
        'missing': lambda: state.pop(key),
        'a part missing': lambda: [state.pop(k) for k in list(state) if k.split('.')[0] == key.split('.')[0]],
        'one more': lambda: state.update({f'{key}.more': value}),
        'renamed': lambda: state.update({key[::-1]: state.pop(key)}),
        'wider': lambda: state.update({key: torch.cat([value, value])}),
        'narrower': lambda: state.update({key: value[: len(value) // 2]}),
        'empty': lambda: state.update({key: value[:0]}),
        'a number': lambda: state.update({key: value.flatten()[0].clone()}),
        'one axis more': lambda: state.update({key: value[None]}),
        'flat': lambda: state.update({key: torch.zeros(7, 5, 3)}),
        'integers': lambda: state.update({key: value.to(torch.int8)}),
        'complex': lambda: state.update({key: value.to(torch.complex64)}),
        'truth values': lambda: state.update({key: value > 0}),
        'sparse': lambda: state.update({key: value.to_sparse()}),
        'NaN': lambda: state.update({key: value * torch.nan}),
        'not a tensor': lambda: state.update({key: 'text'}),
        'a number for a name': lambda: state.update({7: value}),
        'nothing': state.clear,
    }
    name = list(ways)[rng.integers(len(ways))]
    ways[name]()
    return f'{name}: {key}'


@pytest.fixture(scope='module')
def small_state() -> dict:
    return MODELS.build(SMALL).state_dict()


def mutated_parameters(tmp_path, small_state, seeds) -> None:
    model = MODELS.build(SMALL)
    torch.save(small_state, tmp_path / 'good.pth')
    for each in (Config(dict(model=SMALL)), model):
        BiRefNetInferencer(each, tmp_path / 'good.pth', device='cpu', fuse=False)
    path = tmp_path / 'a.pth'
    for seed in seeds:
        state = dict(small_state)
        how = mutate(state, np.random.default_rng(seed))
        torch.save(state, path)
        found = outcome(lambda path: BiRefNetInferencer(model, path, device='cpu', fuse=False), path)
        assert found is None, f'{seed}: {how}'


def test_parameters_of_another_model(tmp_path, small_state):
    """Whatever differs from the config's model: names, shapes, types, values."""
    mutated_parameters(tmp_path, small_state, range(MUTATED))


@pytest.mark.slow
def test_parameters_of_many_other_models(tmp_path, small_state):
    mutated_parameters(tmp_path, small_state, range(100, 500))


@pytest.fixture(scope='module')
def released() -> dict:
    """The reference's parameters, one value each, so that files are small."""
    return {
        key: torch.ones((), dtype=getattr(torch, dtype)).expand(shape)
        for key, (shape, dtype) in reference_shapes().items()
    }


@pytest.fixture(scope='module')
def convert():
    return runpy.run_path(str(ROOT / 'tools/model_converters/birefnet2mmbirefnet.py'))['convert']


def mutated_conversions(tmp_path, released, convert, seeds) -> None:
    src, dst = tmp_path / 'released.pth', tmp_path / 'new.pth'
    torch.save(released, src)
    convert(src, dst)
    dst.unlink()
    for seed in seeds:
        state = dict(released)
        how = mutate(state, np.random.default_rng(seed))
        torch.save(state, src)
        # What the classifier has beside the network is its own affair; renamed keys that are not kept may be any.
        assert outcome(lambda path: convert(path, dst), src) is None, f'{seed}: {how}'
        assert not dst.exists()


def test_conversion_of_another_model(tmp_path, released, convert):
    mutated_conversions(tmp_path, released, convert, range(12))


@pytest.mark.slow
def test_conversion_of_many_other_models(tmp_path, released, convert):
    mutated_conversions(tmp_path, released, convert, range(100, 250))


def test_the_architecture_is_told_or_it_is_an_error(tmp_path, small_state):
    """Without a config, of parameters of each kind of network, and of shapes that fit none."""
    others = dict(
        linear=nn.Linear(2, 2),
        resnet=MODELS.build(dict(type='mmseg.ResNet', depth=18)),
        segmentor=MODELS.build(
            dict(
                type='mmseg.EncoderDecoder',
                backbone=dict(type='mmseg.ResNet', depth=18),
                decode_head=dict(
                    type='mmseg.FCNHead', in_channels=512, channels=8, num_classes=2, in_index=3, num_convs=1
                ),
            )
        ),
    )
    for name, model in others.items():
        torch.save(model.state_dict(), tmp_path / f'{name}.pth')
        with pytest.raises(ValueError, match=rf'{name}\.pth: not a BiRefNet checkpoint'):
            BiRefNetInferencer(weights=tmp_path / f'{name}.pth')
    path = tmp_path / 'a.pth'
    for seed in range(12):
        state = dict(small_state)
        rng = np.random.default_rng(seed)
        for key in rng.choice(list(state), 30):
            state[key] = torch.zeros(rng.integers(1, 5, rng.integers(0, 5)).tolist())
        torch.save(state, path)
        assert outcome(lambda path: BiRefNetInferencer(weights=path), path) is None


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
    with_file = BaseModule
    config = Config(dict(model=SMALL, test_pipeline=[], test_dataloader=dict(dataset={})))
    convert = runpy.run_path(str(ROOT / 'tools/model_converters/birefnet2mmbirefnet.py'))['convert']

    def initialise(path):
        init_cfg = dict(type='Pretrained', checkpoint=str(path))
        module = with_file(init_cfg)
        module.layer = nn.Linear(1, 1)
        module.init_weights()

    def initialise_swin(path):
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
        'init_cfg': initialise,
        'init_cfg of Swin': initialise_swin,
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


def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path):
    train(tmp_path / 'run')
    content = load_guarded(newest_checkpoint(tmp_path / 'run'))
    content['state_dict']['layers.0.weight'] = torch.zeros(8, 1, 3, 3)
    torch.save(content, tmp_path / 'other.pth')
    runner = make_runner(tmp_path / 'resumed', load_from=str(tmp_path / 'other.pth'), resume=True)
    runner._hooks = [hook for hook in runner.hooks if type(hook).__name__ != 'EMAHook']  # which would be the first
    with pytest.raises(ValueError, match=r'other\.pth: of another model.*layers\.0\.weight is \(8, 1, 3, 3\)'):
        runner.train()


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
    assert found == {('mmbirefnet/utils/safe_load.py', 'torch.load')}
