"""Our parameters in the reference's form: the same to the bit, for every backbone, and what cannot be is refused."""

import json
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from golden import model_config, reference_state_dict
from mmengine.logging import HistoryBuffer
from reference_network import build, draw_all
from safetensors.torch import load_file, save_file

from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.models.backbones.swin import relative_position_index
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict
from mmbirefnet.zoo import to_reference_state_dict
from mmbirefnet.zoo.convert import load_birefnet
from mmbirefnet.zoo.to_reference import write_reference

INDEX = 'relative_position_index'


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.fixture(scope='module')
def reference() -> dict:
    """With the index buffers as the reference builds them."""
    state = reference_state_dict(classifier=True)
    return {key: relative_position_index(7) if key.endswith(INDEX) else value for key, value in state.items()}


@pytest.fixture(scope='module')
def ours(reference) -> dict:
    return convert_birefnet_state_dict(reference, 'rows')


def test_round_trip_of_swin(reference, ours):
    assert_equal(to_reference_state_dict(ours), reference)
    wrapped = {f'module._orig_mod.{key}': value for key, value in ours.items()}
    assert_equal(to_reference_state_dict(wrapped), reference)


def test_kernels_of_old_checkpoints_are_halved(reference, ours):
    """Version 2 of the layer held them doubled."""
    kernels = [key.removesuffix('.conv_offset.weight') for key in ours if key.endswith('.conv_offset.weight')]
    assert len(kernels) == 20
    old = OrderedDict(
        (key, 2 * value if key.removesuffix('.weight') in kernels else value) for key, value in ours.items()
    )
    old._metadata = {name: {'version': 2} for name in kernels}
    assert_equal(to_reference_state_dict(old), reference)


@pytest.mark.parametrize('name', ['pvtv2-b0', 'vgg16', 'vgg16-bn', 'r50', 'dinov3-s'])
@pytest.mark.soak(keep=2)
def test_round_trip_of_other_backbones(name):
    shapes, _ = build(name)
    state = draw_all(shapes)
    assert_equal(to_reference_state_dict(convert_birefnet_state_dict(state, 'rows')), state)


@pytest.mark.parametrize('name', ['pvtv2-b1', 'pvtv2-b2', 'pvtv2-b5', 'dinov3-splus', 'dinov3-b', 'dinov3-7b'])
def test_names_of_large_backbones(name):
    with torch.device('meta'):
        shapes, _ = build(name)
    theirs = {key: torch.empty(shape, device='meta') for key, (shape, _) in shapes.items()}
    found = to_reference_state_dict(convert_birefnet_state_dict(theirs, 'rows'))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in theirs.items()}


def on_meta(**options) -> dict:
    config = model_config()
    for part, changed in options.items():
        config[part] = {**config[part], **changed}
    with torch.device('meta'):
        return MODELS.build(config).state_dict()


DILATED = dict(conv_cfg=None, kernel_sizes=(1, 3, 3, 3), dilations=(1, 6, 12, 18))


@pytest.mark.parametrize(
    'options',
    [
        dict(decode_head=dict(inward_reference=False)),
        dict(decode_head=dict(outward_reference=False)),
        dict(decode_head=dict(residual=True)),
        dict(decode_head=dict(aspp_cfg=DILATED), neck=dict(aspp_cfg=DILATED)),
        dict(decode_head=dict(aspp_cfg=None)),
    ],
    ids=str,
)
def test_ablations(options):
    state = on_meta(**options)
    back = convert_birefnet_state_dict(to_reference_state_dict(state), 'rows')
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(decode_head=dict(num_classes=5, loss_decode=dict(type='CrossEntropyLoss'))),
            'predicts one map, this model 5 classes',
        ),
        (
            dict(backbone=dict(arch=dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3,) * 4, window_size=8))),
            r'has no such backbone: no known Swin',
        ),
        (
            dict(decode_head=dict(aspp_cfg=dict(kernel_sizes=(1, 3), dilations=(1, 1)))),
            r'no ASPP with kernels of \(1, 3\)',
        ),
        (dict(decode_head=dict(norm_cfg=dict(type='GN', num_groups=8))), r'has BatchNorm only, decode_head\.blocks'),
    ],
)
def test_models_that_the_reference_does_not_support_are_rejected(options, message):
    with pytest.raises(ValueError, match=f'the reference implementation .*{message}|{message}'):
        to_reference_state_dict(on_meta(**options))


def test_other_networks_are_refused(reference):
    with pytest.raises(ValueError, match=r'not a BiRefNet of this project: found \d+ keys such as'):
        to_reference_state_dict(reference)


@pytest.fixture(scope='module')
def checkpoint(ours, tmp_path_factory):
    path = tmp_path_factory.mktemp('ours') / 'ours.pth'
    write_checkpoint(path, ours, dict(model_name='BiRefNet_lite-2K', input_size=(1440, 2560), crop_order='columns'))
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.soak(keep=1)
def test_files(checkpoint, reference, tmp_path, suffix):
    path = tmp_path / 'new' / f'theirs{suffix}'
    assert write_reference(checkpoint, path) == [path]
    found = load_file(path) if suffix == '.safetensors' else torch.load(path, weights_only=True)
    assert_equal(found, reference)
    with pytest.raises(ValueError, match=r'a\.onnx: must be a \.pth or \.safetensors file, or a folder'):
        write_reference(checkpoint, tmp_path / 'a.onnx')


def test_a_file_with_the_name_of_a_released_model(checkpoint, ours, tmp_path):
    """The header states rows, although the released model of this name has columns; random weights do not tell."""
    path = tmp_path / 'BiRefNet_lite.safetensors'
    write_reference(checkpoint, path)
    loaded = load_birefnet(path)
    assert (list(loaded.meta['input_size']), loaded.meta['crop_order']) == ([1440, 2560], 'rows')
    assert_equal(loaded.state_dict, ours)


@pytest.mark.parametrize(
    ('header', 'message'),
    [
        ('{', 'mmbirefnet in its header is no JSON'),
        ('[' * 100_000, 'mmbirefnet in its header is no JSON'),
        ('7', 'mmbirefnet in its header is 7, must be a JSON object'),
        ('{"crop_order": "diagonals"}', "crop_order in its header is 'diagonals', must be 'rows' or 'columns'"),
    ],
)
def test_a_damaged_header(tmp_path, header, message):
    state = {'bb.patch_embed': torch.zeros(1), 'decoder.conv_out1.0.weight': torch.zeros(1)}
    save_file(state, tmp_path / 'theirs.safetensors', metadata={'mmbirefnet': header})
    with pytest.raises(ValueError, match=rf'theirs\.safetensors: {message}'):
        load_birefnet(tmp_path / 'theirs.safetensors')


def test_folder(checkpoint, reference, ours, tmp_path):
    paths = write_reference(checkpoint, tmp_path / 'release')
    assert [path.name for path in paths] == ['model.safetensors', 'config.json', 'README.md']
    assert_equal(load_file(paths[0]), reference)
    config = json.loads(paths[1].read_text())
    assert config['mmbirefnet'] == dict(backbone='swin-t', crop_order='rows', input_size=[1440, 2560])
    card = paths[2].read_text()
    assert card.startswith('---\npipeline_tag: image-segmentation\n')
    assert '2560x1440 (width x height)' in card
    assert re.search(r'\| DIS-VD \| wFmeasure \| 0\.831 \|', card)
    # The folder is read as it was written: size and order without a guess.
    loaded = load_birefnet(tmp_path / 'release')
    assert (list(loaded.meta['input_size']), loaded.meta['crop_order']) == ([1440, 2560], 'rows')
    assert_equal(loaded.state_dict, ours)


def test_model_card_of_a_run(ours, tmp_path):
    meta = dict(experiment_name='birefnet_own_20261126_120000', epoch=20, iter=500)
    hub = dict(
        log_scalars={'val/wFmeasure': HistoryBuffer([0.5, 0.75], [1, 1]), 'train/loss': HistoryBuffer([1.0], [1])}
    )
    torch.save(dict(state_dict=ours, meta=meta, message_hub=hub), tmp_path / 'epoch_20.pth')
    write_reference(tmp_path / 'epoch_20.pth', tmp_path / 'release')
    card = (tmp_path / 'release/README.md').read_text()
    assert '\n| config of the training | birefnet_own |\n| epochs | 20 |\n| iterations | 500 |\n' in card
    assert re.search(r'\| validation set \| wFmeasure \| 0\.75 \|', card)
    assert 'train/' not in card


@pytest.mark.parametrize('hub', [5, [1], dict(log_scalars=5), dict(log_scalars={'val/wF': 0.8, 7: 0.8})])
@pytest.mark.soak(keep=1)
def test_damaged_scores(ours, tmp_path, hub):
    torch.save(dict(state_dict=ours, meta={}, message_hub=hub), tmp_path / 'ours.pth')
    with pytest.raises(ValueError, match=r'ours\.pth: its message_hub, which keeps the scores, is damaged'):
        write_reference(tmp_path / 'ours.pth', tmp_path / 'release')
    assert not (tmp_path / 'release').exists()


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('backbone.layers.0.blocks.1.attn.relative_position_bias_table', torch.zeros(1).expand(8192, 3)),
        ('decode_head.conv_logits.weight', torch.zeros(())),
        ('decode_head.blocks.4.reconstruction.aspp.branches.1.conv.weight', torch.zeros(())),
        ('decode_head.laterals.2.weight', torch.zeros(1).expand(2**26, 1, 1, 1)),
        ('decode_head.laterals.3.weight', torch.eye(3).to_sparse()),
        ('neck.more', torch.zeros(1)),
    ],
)
@pytest.mark.soak(keep=2)
def test_parameters_of_other_shapes(ours, tmp_path, key, value):
    """They are refused before a backbone of this size, or its index of positions, is made."""
    torch.save(dict(state_dict=ours | {key: value}), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=r'odd\.pth: '):
        write_reference(tmp_path / 'odd.pth', tmp_path / 'new.pth')
    assert not (tmp_path / 'new.pth').exists()


@pytest.mark.soak
def test_crops_by_columns_become_rows(reference, ours, tmp_path):
    """A released file in, the form that the present code of the reference computes rightly out."""
    torch.save(reference, tmp_path / 'old.pth')
    write_reference(tmp_path / 'old.pth', tmp_path / 'new.pth', 'columns')
    found = torch.load(tmp_path / 'new.pth', weights_only=True)
    key = 'decoder.ipt_blk3.conv1.weight'
    expected = reference[key].numpy().reshape(64, 8, 8, 3, 3, 3).transpose(0, 3, 2, 1, 4, 5).reshape(64, 192, 3, 3)
    np.testing.assert_array_equal(found[key].numpy(), expected)
