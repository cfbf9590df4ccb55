"""The catalog of released models: their facts, and recognizing them by a name, file, folder or meta."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmbirefnet.zoo import get_info, identify, list_models
from mmbirefnet.zoo.catalog import CATALOG, find_checkpoint

ROOT = Path(__file__).parents[2]
# Files as they are released, the model, its size (height, width) and the expected order of the crops.
RELEASED = [
    ('BiRefNet-general-epoch_244.pth', 'BiRefNet', (1024, 1024), 'columns'),
    ('BiRefNet-general-bb_swin_v1_tiny-epoch_232.pth', 'BiRefNet_lite', (1024, 1024), 'columns'),
    ('BiRefNet_lite-general-2K-epoch_232.pth', 'BiRefNet_lite-2K', (1440, 2560), 'columns'),
    ('BiRefNet-general-resolution_512x512-fp16-epoch_216.pth', 'BiRefNet_512x512', (512, 512), 'rows'),
    ('BiRefNet_HR-general-epoch_130.pth', 'BiRefNet_HR', (2048, 2048), 'rows'),
    ('BiRefNet_HR-matting-epoch_135.pth', 'BiRefNet_HR-matting', (2048, 2048), 'rows'),
    ('BiRefNet_dynamic-general-epoch_174.pth', 'BiRefNet_dynamic', 'image', 'rows'),
    ('BiRefNet_dynamic-matting-epoch_159.pth', 'BiRefNet_dynamic-matting', 'image', 'rows'),
    ('BiRefNet-matting-epoch_100.pth', 'BiRefNet-matting', (1024, 1024), 'columns'),
    ('BiRefNet_lite-matting.pth', 'BiRefNet_lite-matting', (1024, 1024), 'rows'),
    ('BiRefNet-portrait-epoch_150.pth', 'BiRefNet-portrait', (1024, 1024), 'columns'),
    ('BiRefNet-DIS-epoch_590.pth', 'BiRefNet-DIS5K', (1024, 1024), 'columns'),
    ('BiRefNet-massive-TR_DIS5K_TR_TEs-epoch_420.pth', 'BiRefNet-DIS5K-TR_TEs', (1024, 1024), 'columns'),
    ('BiRefNet-HRSOD_DHU-epoch_115.pth', 'BiRefNet-HRSOD', (1024, 1024), 'columns'),
    ('BiRefNet-COD-epoch_125.pth', 'BiRefNet-COD', (1024, 1024), 'columns'),
    ('BiRefNet-legacy.pth', 'BiRefNet-legacy', (1024, 1024), 'columns'),
    ('RMBG-2.0.safetensors', 'RMBG-2.0', (1024, 1024), 'columns'),
    ('birefnet_finetuned_toonout.pth', 'ToonOut', (1024, 1024), 'rows'),
    ('lucida.safetensors', 'lucida', (1024, 1024), 'rows'),
    ('FeyNobg.safetensors', 'FeyNobg', (1024, 1024), None),
]


@pytest.mark.parametrize(('file', 'name', 'size', 'crop_order'), RELEASED)
def test_released_files(file, name, size, crop_order):
    info = identify(f'/models/{file}')
    assert (info.name, info.input_size, info.crop_order) == (name, size, crop_order)
    # Each file fits the pattern of one model only.
    assert [identify(f'x-{file}').name for _ in range(2)] == [name, name]


def test_files_that_are_named_alike():
    assert identify('BiRefNet_lite-matting-epoch_100.pth').name == 'BiRefNet_lite-matting'
    assert identify('BiRefNet_lite-general-epoch_244.pth') is None


def test_every_model_is_listed():
    assert sorted(list_models()) == sorted(name for _, name, _, _ in RELEASED)
    assert set(list_models('*matting')) == {
        *('BiRefNet_HR-matting', 'BiRefNet_dynamic-matting', 'BiRefNet-matting', 'BiRefNet_lite-matting'),
    }
    assert list_models('dynamic') == ['BiRefNet_dynamic', 'BiRefNet_dynamic-matting']
    assert list_models('u2net') == []


@pytest.mark.parametrize(
    'source',
    [
        'BiRefNet_HR',
        'birefnet-hr',
        'ZhengPeng7/BiRefNet_HR',
        'BiRefNet_HR.safetensors',
        'weights/BiRefNet_HR/model.safetensors',
        'weights/BiRefNet_HR',
        'hub/models--ZhengPeng7--BiRefNet_HR/snapshots/595e2125/model.safetensors',
        'hub/models--ZhengPeng7--BiRefNet_HR/snapshots/595e2125',
    ],
)
def test_names_and_folders(source):
    assert identify(source).name == 'BiRefNet_HR'


def test_folders_with_a_config_and_meta(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'_name_or_path': 'ZhengPeng7/BiRefNet_dynamic'}))
    (tmp_path / 'model.safetensors').touch()
    assert identify(tmp_path).name == identify(tmp_path / 'model.safetensors').name == 'BiRefNet_dynamic'
    assert find_checkpoint(tmp_path) == tmp_path / 'model.safetensors'
    assert identify(tmp_path / 'mine.safetensors') is None  # not the file that the config describes
    assert identify('mine.pth', meta=dict(model_name='BiRefNet_lite-2K')).name == 'BiRefNet_lite-2K'
    assert identify('mine.pth', sha256=get_info('BiRefNet').sha256[0]).name == 'BiRefNet'
    (tmp_path / 'config.json').write_text('[')
    (tmp_path / 'model.safetensors').unlink()
    assert identify(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r'has no model\.safetensors or pytorch_model\.bin'):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize('name', ['epoch_216.pth', 'epoch_244.pth', 'best_wFmeasure_epoch_100.pth', 'mine.pth'])
def test_own_checkpoints_are_not_released_ones(name):
    assert identify(f'work_dirs/run/{name}') is None


@pytest.mark.parametrize('name', ['BiRefNet-ep480.pth', 'BiRefNet_ep480.pth', 'BiRefNet-DIS_ep580.pth'])
def test_early_networks_are_rejected_by_name(name):
    with pytest.raises(ValueError, match=rf'{name}: this is the network released before May 2024 .*Fix: use a model'):
        identify(name)


def test_get_info():
    info = get_info('zhengpeng7/birefnet_lite-2k')
    assert (info.name, info.size, info.backbone, info.task) == ('BiRefNet_lite-2K', '2560x1440', 'swin-t', 'general')
    assert get_info('BiRefNet_dynamic').size == 'own size'
    assert get_info('RMBG-2.0').licence.weights == 'CC BY-NC 4.0'
    with pytest.raises(ValueError, match=r'BiRefNetHR: no released model of this name; did you mean BiRefNet_HR'):
        get_info('BiRefNetHR')
    with pytest.raises(ValueError, match='known are BiRefNet, BiRefNet_lite'):
        get_info('u2net')


def test_published_scores():
    """Those that zoos and cards are asked for most."""
    (general,) = get_info('BiRefNet').scores
    assert general.dataset == 'DIS-VD'
    assert general.metrics == dict(maxFm=0.908, wFmeasure=0.877, MAE=0.034, Smeasure=0.912, HCE=1069)
    assert len(get_info('BiRefNet-DIS5K').scores) == 5
    assert all(score.source for info in CATALOG.values() for score in info.scores)


@pytest.mark.parametrize(
    'name', ['BiRefNet_512x512', 'BiRefNet_dynamic', 'BiRefNet_dynamic-matting', 'BiRefNet-legacy']
)
def test_training_sets_that_are_not_published(name):
    info = get_info(name)
    assert info.training_sets == ()
    assert info.licence.data == 'training data not published'


def test_high_resolution_is_trained_without_duts():
    assert not any('DUTS' in name for name in get_info('BiRefNet_HR').training_sets)
    assert 'DIS-VD' not in {name for info in CATALOG.values() for name in info.training_sets}


@pytest.mark.parametrize('name', list_models())
def test_entries_agree_with_themselves(name):
    info = get_info(name)
    assert all(info.licence)
    assert info.repository.count('/') == 1
    width, _, height = info.size.partition('x')
    size = f'{width}x{height}' if height else '256x256-2304x2304'
    assert f'_{info.backbone}_' in info.config
    assert info.config.endswith(f'-{size}.py')
    assert (ROOT / 'configs' / info.config).is_file()
    assert (ROOT / 'configs' / info.finetune_config).is_file()
    assert f'_{info.backbone}_' in info.finetune_config
    assert info.finetune_config.endswith(f'-{size}.py')


def test_the_catalog_needs_no_torch():
    code = (
        'import sys, mmbirefnet.zoo; mmbirefnet.zoo.get_info("BiRefNet"); '
        'print({"torch", "mmengine"} & {*sys.modules} - before)'
    )
    code = f'import mmbirefnet, sys; before = {{*sys.modules}}; {code}'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'
