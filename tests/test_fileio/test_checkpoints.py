"""Reading and writing parameter files."""

import argparse
import sys
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file
from torch import nn

from mmbirefnet.fileio.checkpoints import misfit, read_state_dict, write_checkpoint
from mmbirefnet.models import DCNv2
from mmbirefnet.zoo.convert import strip_prefixes

STATE = {'a.weight': torch.tensor([[1.0, 2.0]]), 'a.bias': torch.tensor([3.0])}
OTHER = {'a.weight': torch.zeros(1, 2), 'a.bias': torch.zeros(1)}


def assert_read(path, expected=STATE) -> None:
    found = read_state_dict(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    'content',
    [
        STATE,
        {'model': STATE, 'epoch': 3},
        {'state_dict': STATE, 'meta': {'a': 1}, 'optimizer': {'state': OTHER}},
        {'model': {'state_dict': STATE}},
        # Averaged parameters are preferred; timm writes None where there are none.
        {'state_dict': OTHER, 'state_dict_ema': STATE},
        {'state_dict': STATE, 'state_dict_ema': None},
    ],
)
def test_pickled(tmp_path, content):
    torch.save(content, tmp_path / 'model.pth')
    assert_read(tmp_path / 'model.pth')
    assert_read(str(tmp_path / 'model.pth'))


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / 'model.safetensors')
    assert_read(tmp_path / 'model.safetensors')


def test_safetensors_is_optional(tmp_path, monkeypatch):
    save_file(STATE, tmp_path / 'model.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ImportError, match=r'model\.safetensors.*pip install safetensors.*mmbirefnet\[optional\]'):
        read_state_dict(tmp_path / 'model.safetensors')
    torch.save(STATE, tmp_path / 'model.pth')
    assert_read(tmp_path / 'model.pth')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing\.pth: no such file'):
        read_state_dict(tmp_path / 'nothing.pth')
    with pytest.raises(FileNotFoundError, match='no such file'):
        read_state_dict(tmp_path)


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize('damage', ['empty', 'page', 'truncated'])
def test_damaged_file(tmp_path, name, damage):
    path = tmp_path / name
    (torch.save if name.endswith('pth') else save_file)(STATE, path)
    whole = path.read_bytes()
    path.write_bytes({'empty': b'', 'page': b'<html>not found</html>', 'truncated': whole[: len(whole) // 2]}[damage])
    with pytest.raises(ValueError, match=rf'{name}: damaged, or not a (PyTorch checkpoint|safetensors file)'):
        read_state_dict(path)


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        ({'epoch': 1, 'optimizer': {}}, r"a dict of \['epoch', 'optimizer'\]"),
        ({'model': {}}, r'a dict of \[\]'),
        ([torch.zeros(1)], 'list'),
        ({'state_dict': {'a': 'text'}}, r"a dict of \['a'\]"),
    ],
)
def test_no_state_dict(tmp_path, content, found):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=rf'other\.pth: expected named parameters.*found {found}'):
        read_state_dict(tmp_path / 'other.pth')


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ('raise SystemError("unpickled")',)


@pytest.mark.parametrize(
    ('content', 'refused'),
    [(nn.Linear(1, 1), 'Linear'), ({'a': argparse.Namespace()}, 'argparse.Namespace'), ({'a': Trap()}, 'exec')],
)
def test_objects_are_not_unpickled(tmp_path, content, refused):
    torch.save(content, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match=rf'model\.pth: holds objects \(\S*{refused}\).*save the state dict alone'):
        read_state_dict(tmp_path / 'model.pth')


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'model.pth'
    write_checkpoint(path, STATE, dict(source='x'))
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint['meta'] == dict(source='x')
    assert_read(path)

    def fail(content, target):
        target.write_bytes(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        write_checkpoint(path, OTHER, {})
    assert_read(path)
    assert [each.name for each in path.parent.iterdir()] == ['model.pth']


def test_misfit_lists_missing_unexpected_and_wrong_shapes():
    assert misfit(STATE, OTHER) == ''
    wanted = {'a.weight': torch.zeros(2, 2), 'b': torch.zeros(1), 'norm.c': torch.zeros(1)}
    assert misfit(STATE, wanted, optional=('norm.',)) == (
        'missing (1): b; unexpected (1): a.bias; '
        'of another shape (1): a.weight is (1, 2) in the file and (2, 2) in the model'
    )
    many = {str(i): torch.zeros(1) for i in range(5)}
    assert misfit({}, many) == 'missing (5): 0, 1, 2 …'
    assert misfit({}, many, optional=tuple(many)) == ''


class TestDoubledKernels:
    """Earlier versions held the kernels of deformable convolutions doubled, as version 2 of the layer."""

    def layer(self):
        return nn.ModuleDict(dict(conv=DCNv2(4, 4, 3)))

    def state(self, metadata):
        """A state dict as earlier versions saved it, every kernel value 2, with or without its metadata."""
        state = nn.ModuleDict(dict(conv=mmcv.ops.ModulatedDeformConv2dPack(4, 4, 3))).state_dict()
        state['conv.weight'].fill_(2)
        return state if metadata else dict(state)

    def loaded(self, path):
        """Kernels as both ways of loading a file leave them."""
        layers = [self.layer(), self.layer()]
        layers[0].load_state_dict(read_state_dict(path))
        load_checkpoint(layers[1], str(path), strict=True)
        return [set(layer['conv'].weight.flatten().tolist()) for layer in layers]

    def test_saved_by_a_training(self, tmp_path):
        torch.save(dict(meta=dict(epoch=3), state_dict=self.state(metadata=True)), tmp_path / 'epoch_3.pth')
        assert self.loaded(tmp_path / 'epoch_3.pth') == [{1.0}, {1.0}]

    def test_saved_with_the_name_of_a_wrapper(self, tmp_path):
        """mmengine removes ``module.`` from the keys alone."""
        wrapped = nn.ModuleDict(dict(module=nn.ModuleDict(dict(conv=mmcv.ops.ModulatedDeformConv2dPack(4, 4, 3)))))
        nn.init.constant_(wrapped['module']['conv'].weight, 2)
        torch.save(dict(state_dict=wrapped.state_dict()), tmp_path / 'ddp.pth')
        layers = [self.layer(), self.layer()]
        load_checkpoint(layers[0], str(tmp_path / 'ddp.pth'), strict=True)
        layers[1].load_state_dict(strip_prefixes(read_state_dict(tmp_path / 'ddp.pth')))
        for layer in layers:
            assert set(layer['conv'].weight.flatten().tolist()) == {1.0}

    def test_converted_by_earlier_versions(self, tmp_path):
        meta = dict(mmbirefnet_version='0.1.0', converted_from='BiRefNet.pth')
        torch.save(dict(meta=meta, state_dict=self.state(metadata=False)), tmp_path / 'converted.pth')
        assert self.loaded(tmp_path / 'converted.pth') == [{1.0}, {1.0}]

    def test_converted_by_this_version(self, tmp_path):
        meta = dict(mmbirefnet_version='0.1.0', converted_from='BiRefNet.pth')
        write_checkpoint(tmp_path / 'converted.pth', self.state(metadata=False), meta)
        assert self.loaded(tmp_path / 'converted.pth') == [{2.0}, {2.0}]

    def test_saved_by_this_version(self, tmp_path):
        layer = self.layer()
        nn.init.constant_(layer['conv'].weight, 2)
        torch.save(layer.state_dict(), tmp_path / 'model.pth')
        save_file(dict(layer.state_dict()), tmp_path / 'model.safetensors')  # which has no metadata
        assert self.loaded(tmp_path / 'model.pth') == self.loaded(tmp_path / 'model.safetensors') == [{2.0}, {2.0}]


@pytest.mark.parametrize('zipped', [True, False])
def test_file_is_mapped_and_never_written_to(tmp_path, zipped):
    """In the format before torch 1.6 it is copied."""
    path = tmp_path / 'model.pth'
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    state = read_state_dict(path)
    assert (str(path) in Path('/proc/self/maps').read_text()) == zipped
    state['a.weight'].fill_(7)
    assert path.read_bytes() == content
    assert_read(path)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_finite_values_whose_sum_overflows_are_accepted(tmp_path, dtype):
    largest = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    torch.save({'a': largest}, tmp_path / 'model.pth')
    assert_read(tmp_path / 'model.pth', {'a': largest})
    for bad in (float('inf'), float('nan')):
        torch.save({'a': largest, 'b': torch.tensor([1, bad], dtype=dtype)}, tmp_path / 'model.pth')
        with pytest.raises(ValueError, match=r'1 parameters hold NaN or Inf, such as b'):
            read_state_dict(tmp_path / 'model.pth')
    torch.save({'b': torch.tensor([float('inf'), -float('inf')], dtype=dtype)}, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='NaN or Inf'):
        read_state_dict(tmp_path / 'model.pth')
