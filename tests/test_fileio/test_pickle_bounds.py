"""Small checkpoints that claim much are refused before anything is made."""

import collections
import io
import pickle
import time
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmbirefnet.fileio.checkpoints import NESTS, read_checkpoint, read_state_dict


def shared_dicts():
    content = {'weight': torch.zeros(1)}
    for _ in range(40):
        content = dict.fromkeys(NESTS, content)
    return content


def shared_keys():
    """A dict whose key takes 2**60 steps to hash."""
    key = ()
    for _ in range(60):
        key = (key, key)
    return NeverHashed(key)


class NeverHashed:
    """Unpickles to a dict with this key, which is not hashed here."""

    def __init__(self, key):
        self.key = key

    def __reduce__(self):
        return collections.OrderedDict, ([[self.key, 1]],)


def contained():
    content = {}
    content['state_dict'] = content
    return content


def deep():
    content = {}
    for _ in range(300):
        content = {'state_dict': content}
    return content


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    'shared dicts': (shared_dicts, 'objects in each other'),
    'shared keys': (shared_keys, 'in each other'),
    'contained': (contained, 'contains itself'),
    'deep': (deep, 'in each other'),
    'expanded': (lambda: {'w': torch.zeros(1).expand(1, 1, 40000, 40000)}, 'a tensor claims 1600000000 elements'),
    'many that overlap': (
        lambda: {f'w{i}': torch.zeros(2048).as_strided((1024, 1024), (1, 1)) for i in range(100)},
        'its tensors claim 104857600 elements',
    ),
    'bytes': (lambda: {'w': Call(bytearray, 1 << 33)}, 'bytearray is asked for'),
    'tensor': (lambda: {'w': Call(torch.FloatTensor, 1000, 1000, 1000)}, 'FloatTensor is asked for 1000000000'),
    'array': (
        lambda: {'w': Call(np._core.multiarray._reconstruct, np.ndarray, (1 << 33,), b'b')},
        '_reconstruct is asked for',
    ),
}


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', HOSTILE)
def test_small_files_that_declare_huge_content_are_rejected(tmp_path, name, zipped):
    make, problem = HOSTILE[name]
    path = tmp_path / 'small.pth'
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 1 << 20
    start = time.process_time()
    with pytest.raises(ValueError, match=rf'small\.pth: damaged, or not a PyTorch checkpoint \(.*{problem}'):
        read_checkpoint(path)
    assert time.process_time() - start < 2


LIST = pickle.EMPTY_LIST + pickle.BINPUT + b'\0' + pickle.MARK + pickle.NONE * 20000 + pickle.APPENDS
QUADRATIC = {
    'marks behind many objects': (
        pickle.MARK + pickle.NONE * 300_000 + (pickle.MARK + pickle.TUPLE) * 10_000 + pickle.TUPLE,
        'expected named parameters',
    ),
    'a long list in a list many times': (
        pickle.EMPTY_LIST + pickle.MARK + LIST + (pickle.BINGET + b'\0') * 20_000 + pickle.APPENDS,
        'in each other',
    ),
    'objects that are in no other': (LIST + (pickle.BINGET + b'\0' + pickle.TUPLE1) * 100, 'it leaves 101 objects'),
    'many steps': (pickle.MARK + pickle.NONE * 1_100_000 + pickle.TUPLE, 'more than 1000000 steps'),
}


@pytest.mark.parametrize('name', QUADRATIC)
def test_reading_takes_time_in_proportion(tmp_path, name):
    content, problem = QUADRATIC[name]
    with zipfile.ZipFile(tmp_path / 'small.pth', 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.PROTO + b'\2' + content + pickle.STOP)
        archive.writestr('archive/version', '3\n')
    start = time.process_time()
    with pytest.raises(ValueError, match=rf'small\.pth: .*{problem}'):
        read_state_dict(tmp_path / 'small.pth')
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    'metadata',
    [5, [1], 'text', {5: {'version': 1}}, {'layer': 5}, {'layer': {'version': '2'}}, {'layer': {'version': [2]}}],
)
def test_damaged_metadata_of_parameters(tmp_path, metadata):
    state = collections.OrderedDict(weight=torch.zeros(1))
    state._metadata = metadata
    for content in (state, dict(state_dict=state)):
        torch.save(content, tmp_path / 'odd.pth')
        with pytest.raises(ValueError, match=r'odd\.pth: the metadata of its parameters .*Fix: save the state dict'):
            read_checkpoint(tmp_path / 'odd.pth')


@pytest.mark.parametrize('name', ['weight\n\x1b[2J', '\ud800', 'x' * 501])
def test_names_that_cannot_be_printed(tmp_path, name):
    """Messages about parameters are one line that a terminal shows."""
    torch.save({'a': torch.zeros(1), name: torch.zeros(1)}, tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=r'odd\.pth: expected named parameters') as error:
        read_state_dict(tmp_path / 'odd.pth')
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_parameters_of_one_value_take_no_memory(tmp_path):
    """Views of one number are read, and checked, as what they are."""
    torch.save({f'w{i}': torch.tensor(i / 0.5).expand(8192, 8192) for i in range(20)}, tmp_path / 'a.pth')
    assert read_state_dict(tmp_path / 'a.pth')['w3'][4000, 5] == 6
    torch.save({'w': torch.tensor(torch.nan).expand(8192, 8192)}, tmp_path / 'nan.pth')
    start = time.process_time()
    with pytest.raises(ValueError, match='1 parameters hold NaN or Inf, such as w'):
        read_state_dict(tmp_path / 'nan.pth')
    assert time.process_time() - start < 1


def test_archives_that_unpack_to_more_than_their_size(tmp_path):
    torch.save({'w': torch.zeros(1 << 22)}, tmp_path / 'plain.pth')
    bomb = zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / 'bomb.pth').stat().st_size < 30_000
    with pytest.raises(ValueError, match=r'bomb\.pth: .*it is compressed, 167\d+ bytes in'):
        read_checkpoint(tmp_path / 'bomb.pth')


def test_storages_that_the_file_cannot_hold(tmp_path):
    buffer = io.BytesIO()
    torch.save({'w': torch.zeros(77)}, buffer, _use_new_zipfile_serialization=False)
    claim = buffer.getvalue().replace(pickle.BININT1 + b'M', pickle.BININT + b'\xff\xff\xff\x7f')
    (tmp_path / 'legacy.pth').write_bytes(claim)
    with pytest.raises(ValueError, match=r'legacy\.pth: .*a storage claims 2147483647 elements'):
        read_checkpoint(tmp_path / 'legacy.pth')


@pytest.mark.parametrize('found', [0, 4, 16])
def test_storages_of_another_size_than_their_entry(tmp_path, found):
    """Mapped into memory they would begin and end with bytes of something else."""
    torch.save({'w': torch.zeros(3)}, tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, zipfile.ZipFile(tmp_path / 'odd.pth', 'w') as odd:
        for entry in plain.infolist():
            odd.writestr(entry.filename, bytes(found) if entry.filename.endswith('data/0') else plain.read(entry))
    with pytest.raises(ValueError, match=rf'odd\.pth: .*a storage claims 3 elements, its entry has {found} bytes'):
        read_state_dict(tmp_path / 'odd.pth')


def test_safetensors_with_a_large_header(tmp_path):
    (tmp_path / 'odd.safetensors').write_bytes((2**22 + 1).to_bytes(8, 'little') + bytes(2**22 + 1))
    with pytest.raises(ValueError, match=r'odd\.safetensors: .*a header of 4194305 bytes'):
        read_state_dict(tmp_path / 'odd.safetensors')


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_checkpoints_of_trainings_are_read(tmp_path, zipped):
    weight = torch.arange(6.0)
    history = HistoryBuffer()
    for value in range(3):
        history.update(value)
    content = dict(
        state_dict={'a': weight.view(2, 3), 'tied': weight, 'view': weight[::2], 'few': weight[:1].expand(9)},
        message_hub={'loss': history, 'step': np.float64(0.5)},
        param_schedulers=[dict(milestones=collections.Counter({3_000_000: 1}))],
        keys={(1, (2, 3)): 'tuple'},
        parameter=torch.nn.Parameter(weight),
    )
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read['state_dict']['few'].tolist() == [0.0] * 9
    assert read['state_dict']['view'].tolist() == [0.0, 2.0, 4.0]
    assert read['message_hub']['loss'].data[0].tolist() == [0.0, 1.0, 2.0]
    assert read['param_schedulers'] == content['param_schedulers']


@pytest.mark.parametrize(
    'tensor', [torch.zeros(2, device='meta'), torch.zeros(2, dtype=torch.uint8).view(torch.float8_e8m0fnu)]
)
def test_tensors_without_values(tmp_path, tensor):
    torch.save({'w': tensor}, tmp_path / 'odd.pth')
    try:
        read_state_dict(tmp_path / 'odd.pth')
    except ValueError as error:
        assert 'odd.pth' in str(error)  # noqa: PT017


def test_safetensors_of_a_dtype_that_torch_lacks(tmp_path):
    header = b'{"w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (tmp_path / 'odd.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(2))
    with pytest.raises(ValueError, match=r'odd\.safetensors: (damaged|holds tensors that are not parameters)'):
        read_state_dict(tmp_path / 'odd.safetensors')
