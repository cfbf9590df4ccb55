"""Checkpoints that are broken, or of something else: an error that names the file, or the right parameters."""

import io
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import changed, lengths, outcome, wrong_kinds
from golden import model_config, reference_shapes
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save, save_file
from small_training import make_runner, train
from torch import nn

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.engine.resume.checkpoints import newest_checkpoint
from mmbirefnet.fileio.checkpoints import read_checkpoint, read_state_dict
from mmbirefnet.fileio.restricted_unpickling import load_guarded
from mmbirefnet.registry import MODELS

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
def test_truncated_checkpoints_are_rejected(tmp_path, form):
    data, path = packed(STATE, form), tmp_path / FORMS[form]
    cuts = sorted({*lengths(len(data)), *range(0, len(data), 37)})
    assert len(cuts) > 30
    for length in cuts:
        path.write_bytes(data[:length])
        found = outcome(read_state_dict, path)
        assert found is None or equal(found, STATE), length


@pytest.mark.parametrize('form', FORMS)
def test_corrupted_checkpoints(tmp_path, form):
    """A .pth file has checksums: what is read of it is right. Files of before torch 1.6 and .safetensors have none."""
    path = tmp_path / FORMS[form]
    for case in changed({path.name: packed(STATE, form)}, CHANGED):
        path.write_bytes(case.data)
        found = outcome(read_state_dict, path)
        assert found is None or form != 'zip' or equal(found, STATE), case.name


@pytest.mark.soak
@pytest.mark.parametrize('form', FORMS)
def test_checkpoints_corrupted_at_3000_places(tmp_path, form):
    if form == 'legacy' and torch.__version__ < '2.2':
        pytest.skip('torch 2.1 makes room for as much as a damaged file says, 20 GB in one case')
    path = tmp_path / FORMS[form]
    for case in changed({path.name: packed(STATE, form)}, 3000, seed=1):
        path.write_bytes(case.data)
        found = outcome(read_state_dict, path)
        assert found is None or form != 'zip' or equal(found, STATE), case.name


def test_no_checkpoint(tmp_path):
    for case in wrong_kinds(('.pth', '.safetensors')):
        assert outcome(read_state_dict, case.write(tmp_path)) is None, case.name
    for name in ('folder.pth', 'folder.safetensors'):
        (tmp_path / name).mkdir()
        assert outcome(read_state_dict, tmp_path / name) is None
    with zipfile.ZipFile(tmp_path / 'other.pth', 'w') as archive:
        archive.writestr('readme.txt', 'an archive of something else')
    assert outcome(read_state_dict, tmp_path / 'other.pth') is None


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_nan_and_inf_are_rejected(tmp_path, value, dtype):
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
        'repeated': lambda: state.update({key: value.flatten()[0].expand(8192, 8192)}),
        'there twice': lambda: state.update({f'module.{key}': value}),
        'a name of two lines': lambda: state.update({f'{key}\n': value}),
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


@pytest.mark.soak
def test_parameters_of_another_model(tmp_path, small_state):
    """Whatever differs from the config's model: names, shapes, types, values."""
    mutated_parameters(tmp_path, small_state, range(MUTATED))


@pytest.mark.soak
def test_parameters_of_many_other_models(tmp_path, small_state):
    mutated_parameters(tmp_path, small_state, range(100, 300))


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
        if how.startswith('a part missing: squeeze_module'):
            continue  # what is left is a network without that block
        # What the classifier has beside the network is its own affair; renamed keys that are not kept may be any.
        assert outcome(lambda path: convert(path, dst), src) is None, f'{seed}: {how}'
        assert not dst.exists()


@pytest.mark.soak
def test_conversion_of_another_model(tmp_path, released, convert):
    mutated_conversions(tmp_path, released, convert, range(12))


@pytest.mark.soak
def test_conversion_of_many_other_models(tmp_path, released, convert):
    mutated_conversions(tmp_path, released, convert, range(100, 180))


@pytest.mark.soak
def test_architecture_is_inferred_or_an_error(tmp_path, small_state):
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


@pytest.mark.soak
def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path):
    train(tmp_path / 'run')
    content = load_guarded(newest_checkpoint(tmp_path / 'run'))
    content['state_dict']['layers.0.weight'] = torch.zeros(8, 1, 3, 3)
    torch.save(content, tmp_path / 'other.pth')
    runner = make_runner(tmp_path / 'resumed', load_from=str(tmp_path / 'other.pth'), resume=True)
    runner._hooks = [hook for hook in runner.hooks if type(hook).__name__ != 'EMAHook']  # which would be the first
    with pytest.raises(ValueError, match=r'other\.pth: .* of another model.*layers\.0\.weight is \(8, 1, 3, 3\)'):
        runner.train()
