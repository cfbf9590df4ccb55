"""Names of models wherever a checkpoint is taken, from a server on this machine; and ``mmbirefnet models``."""

import re

import cv2
import mmengine.hub
import numpy as np
import pytest
import torch
from golden import reference_state_dict
from hub_server import run_hub
from huggingface_hub import constants
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from safetensors.torch import save_file

import mmbirefnet.registry  # noqa: F401 -- puts the loaders in their place
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli.main import main
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.utils import load_birefnet_state_dict

PICO = 'me/pico:birefnet_pico.pth'


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """A Swin-T checkpoint in the reference's form, with seeded parameters."""
    path = tmp_path_factory.mktemp('released') / 'model.safetensors'
    save_file({key: value.clone().contiguous() for key, value in reference_state_dict().items()}, path)
    return path


@pytest.fixture
def hub(trained_checkpoint, released, tmp_path, monkeypatch):
    with run_hub() as server:
        server.files['me/pico'] = {'birefnet_pico.pth': trained_checkpoint.checkpoint.read_bytes()}
        server.files['ZhengPeng7/BiRefNet_lite-2K'] = {'model.safetensors': released.read_bytes()}
        server.files['ZhengPeng7/BiRefNet'] = server.files['ZhengPeng7/BiRefNet_lite-2K']
        monkeypatch.setattr(constants, 'ENDPOINT', server.url)
        monkeypatch.setattr(
            constants, 'HUGGINGFACE_CO_URL_TEMPLATE', server.url + '/{repo_id}/resolve/{revision}/{filename}'
        )
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.delenv('MMBIREFNET_CHECKPOINT', raising=False)
        yield server


@pytest.fixture
def image(tmp_path):
    sample = make_sample(0, 'DIS-VD', 6, (120, 160))
    cv2.imwrite(str(tmp_path / 'gear.png'), sample.image)
    return tmp_path / 'gear.png'


@pytest.mark.soak
def test_inferencer(hub, trained_checkpoint, image):
    config, checkpoint = trained_checkpoint
    expected = BiRefNetInferencer(config, checkpoint, device='cpu')(image)
    found = BiRefNetInferencer(config, PICO, device='cpu')(image)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('arguments', [('BiRefNet_lite-2K',), (None, 'ZhengPeng7/BiRefNet_lite-2K'), ()])
@pytest.mark.soak
def test_inferencer_without_a_config(hub, released, arguments):
    backend = BiRefNetInferencer(*arguments, device='cpu', fuse=False, crop_order='rows').backend
    expected = ('BiRefNet_lite-2K', (1440, 2560)) if arguments else ('BiRefNet', (1024, 1024))
    assert (backend.name, backend.input_size) == expected
    state = load_birefnet_state_dict(released, 'rows')
    found = backend.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.soak
def test_mmengine(hub, trained_checkpoint, released):
    """What ``load_from``, ``tools/test.py`` and ``init_cfg`` load by."""
    expected = torch.load(trained_checkpoint.checkpoint)['state_dict']
    found = CheckpointLoader.load_checkpoint(PICO, map_location='cpu')['state_dict']
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    found = CheckpointLoader.load_checkpoint('BiRefNet_lite-2K', map_location='cpu')['state_dict']
    assert found.keys() == reference_state_dict().keys()


@pytest.mark.soak
def test_hub_of_mmengine_loads_released_models(hub, released):
    config = 'mmbirefnet::birefnet_general/birefnet_swin-t_8xb4-250e_general-2560x1440.py'
    found = mmengine.hub.get_model(config, pretrained=True).state_dict()
    expected = load_birefnet_state_dict(released, 'columns')
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    url = (
        'https://huggingface.co/ZhengPeng7/BiRefNet_lite-2K/resolve/main/model.safetensors?download=true#/a.safetensors'
    )
    assert CheckpointLoader.load_checkpoint(url)['state_dict'].keys() == reference_state_dict().keys()


@pytest.mark.soak
def test_cut(hub, trained_checkpoint, image, tmp_path):
    words = ['cut', str(image), '--config', str(trained_checkpoint.config), '--device', 'cpu', '--save', 'mask']
    for name, checkpoint in (('by_name', PICO), ('by_file', str(trained_checkpoint.checkpoint))):
        assert main([*words, '-o', str(tmp_path / name), '--checkpoint', checkpoint]) == 0
    by_name, by_file = (np.asarray(Image.open(tmp_path / name / 'gear.png')) for name in ('by_name', 'by_file'))
    np.testing.assert_array_equal(by_name, by_file)
    assert np.ptp(by_file) > 200


@pytest.mark.soak
def test_convert(hub, released, tmp_path, capsys):
    words = ['convert', 'BiRefNet_lite-2K', str(tmp_path / 'ours.pth'), '--crop-order', 'rows']
    assert main(words) == 0
    assert 'model:     BiRefNet_lite-2K (general), trained at 2560x1440' in capsys.readouterr().out
    found = torch.load(tmp_path / 'ours.pth')
    expected = load_birefnet_state_dict(released, 'rows')
    assert all(torch.equal(found['state_dict'][key], expected[key]) for key in expected)
    assert found['meta']['model_name'] == 'BiRefNet_lite-2K'


def test_models(hub, capsys):
    assert main(['models', 'lite']) == 0
    rows = [re.split(r'\s{2,}', line.strip()) for line in capsys.readouterr().out.splitlines() if 'swin' in line]
    assert rows == [
        ['BiRefNet_lite', 'general', '1024x1024', 'swin-t', 'MIT', 'no'],
        ['BiRefNet_lite-2K', 'general', '2560x1440', 'swin-t', 'MIT', 'no'],
        ['BiRefNet_lite-matting', 'matting', '1024x1024', 'swin-t', 'MIT', 'no'],
    ]
    assert main(['models', 'download', 'BiRefNet_lite-2K', 'BiRefNet_none']) == 1
    captured = capsys.readouterr()
    assert captured.out.strip().endswith('model.safetensors')
    assert captured.err.startswith('failed: BiRefNet_none: neither a file here nor a released model; did you mean')
    main(['models', 'lite-2k'])
    size = len(hub.files['ZhengPeng7/BiRefNet']['model.safetensors']) / 1e6
    assert re.search(rf'MIT +{size:.0f} MB', capsys.readouterr().out)
    main(['models', 'rmbg'])
    assert 'CC BY-NC 4.0, non-commercial' in capsys.readouterr().out


@pytest.mark.parametrize('columns', ['40', '80'])
def test_narrow_terminals_lose_no_column(hub, monkeypatch, capsys, columns):
    monkeypatch.setenv('COLUMNS', columns)
    monkeypatch.setenv('FORCE_COLOR', '1')  # as on a terminal
    assert main(['models']) == 0
    text = re.sub(r'\x1b\[\d*m', '', capsys.readouterr().out)
    assert '…' not in text
    assert re.search(r'^BiRefNet_dynamic-matting +matting +own size +swin-l +MIT +no', text, re.M)
    assert re.search(r'^RMBG-2.0 +general +1024x1024 +swin-l +CC BY-NC 4.0', text, re.M)
    assert max(map(len, text.splitlines()[:-3])) <= 80


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['zzz'], 'zzz: no released model matches; known are BiRefNet, '),
        (['a', 'b'], 'models a b: expected one PATTERN, or download followed by names'),
        (['download'], 'models download: no model given'),
    ],
)
def test_wrong_arguments_are_usage_errors(words, message, capsys):
    assert main(['models', *words]) == 2
    assert capsys.readouterr().err.startswith(f'error: {message}')
