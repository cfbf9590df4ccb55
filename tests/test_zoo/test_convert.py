"""Conversion of the reference's parameters, and the architecture told from them.

That the converted model computes what the reference does is tested with the model.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from golden import image, model_config, reference_state_dict, without
from mmengine.config import Config
from torch import nn

from mmbirefnet.registry import MODELS
from mmbirefnet.utils import (
    check_fit,
    convert_birefnet_state_dict,
    infer_backbone_name,
    infer_model_config,
    load_birefnet_state_dict,
)
from mmbirefnet.zoo.convert import load_birefnet

CONFIGS = Path(__file__).parents[2] / 'configs/birefnet'
NORMS = ('.running_mean', '.running_var', '.num_batches_tracked', '.weight', '.bias')


@pytest.fixture(scope='module')
def reference() -> dict:
    return reference_state_dict(classifier=True)


@pytest.fixture(scope='module')
def converted(reference) -> dict:
    return convert_birefnet_state_dict(reference)


@pytest.mark.soak
def test_every_parameter_is_converted_and_loaded(reference, converted):
    model = MODELS.build(model_config(classifier=True))
    model.load_state_dict(converted, strict=True)

    def size(state):
        return sum(value.numel() for key, value in state.items() if not key.endswith('relative_position_index'))

    assert size(reference) == size(converted) == size(model.state_dict())
    # The numbers of the reference implementation, in millions.
    parts = dict(backbone=27.5, decode_head=12.7, neck=4.1 + 219 * 1537 / 1e6)
    for name, millions in parts.items():
        parameters = getattr(model, name).parameters()
        assert sum(parameter.numel() for parameter in parameters) == pytest.approx(millions * 1e6, abs=0.06e6), name


def test_parameters_that_are_merged_or_split(reference, converted):
    theirs = 'decoder.decoder_block3.dec_att.aspp_deforms.2.atrous_conv'
    ours = 'decode_head.blocks.3.reconstruction.aspp.branches.3.conv'
    assert torch.equal(converted[f'{ours}.weight'], reference[f'{theirs}.regular_conv.weight'])
    assert torch.equal(converted[f'{ours}.conv_offset.weight'][:98], reference[f'{theirs}.offset_conv.weight'])
    assert torch.equal(converted[f'{ours}.conv_offset.bias'][98:], reference[f'{theirs}.modulator_conv.bias'])
    whole = reference['decoder.conv_out1.0.weight']
    assert torch.equal(converted['decode_head.conv_logits.weight'], whole[:, :96])
    assert torch.equal(converted['decode_head.conv_logits_inward.weight'], whole[:, 96:])


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', 'model.'])
def test_prefixes(reference, converted, prefix):
    found = convert_birefnet_state_dict({prefix + key: value for key, value in reference.items()})
    assert found.keys() == converted.keys()
    assert all(torch.equal(value, converted[key]) for key, value in found.items())


def without_norms(reference: dict) -> dict:
    """As trained at batch size 1."""
    norms = {key.removesuffix('.running_mean') for key in reference if key.endswith('.running_mean')}
    return {key: value for key, value in reference.items() if key.rpartition('.')[0] not in norms}


@pytest.mark.soak
def test_batch_size_one_checkpoint(reference):
    state = convert_birefnet_state_dict(without_norms(reference_state_dict()))
    model = MODELS.build(model_config())
    model.load_state_dict(state, strict=True)
    model.eval()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(norms) == 5 * 8 + 3
    for name, norm in norms.items():
        x = torch.randn(2, norm.num_features, 3, 3)
        torch.testing.assert_close(norm(x), x, rtol=1e-6, atol=1e-6, msg=name)
    x = image(0, 1, 64, 64)
    with torch.no_grad():
        found = model(x, mode='tensor')
        for name in norms:
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, nn.Identity())
        expected = model(x, mode='tensor')
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_batch_size_one_checkpoint_in_half_precision(reference):
    half = {key: value.half() for key, value in without_norms(reference).items()}
    variance = convert_birefnet_state_dict(half)['neck.squeeze.norm_in.running_var']
    assert ((variance.double() + 1e-5 - 1).abs() < 1e-7).all()


@pytest.mark.parametrize(
    ('lost', 'message'),
    [
        ('conv_out1', r'not a BiRefNet checkpoint: expected keys that start with "bb\.".*found \d+ keys such as'),
        ('bb.', 'not a BiRefNet checkpoint: expected keys'),
        (
            'block4.dec_att.aspp1.atrous_conv.modulator_conv.bias',
            r'block4\.dec_att\.aspp1\.atrous_conv\.offset_conv\.bias has no \S+modulator_conv\.bias beside it',
        ),
        (
            'block4.dec_att.aspp1.atrous_conv.offset_conv.weight',
            r'modulator_conv\.weight has no \S+offset_conv\.weight beside it',
        ),
        ('decoder_block2.bn_in.', r'5 of 215 parameters of its norms are missing, such as .*blocks\.2\.recon'),
        ('.running_var', r'43 of 215 parameters of its norms are missing'),
    ],
)
def test_damaged_checkpoint(reference, lost, message):
    with pytest.raises(ValueError, match=message):
        convert_birefnet_state_dict(without(reference, lost))


def test_other_checkpoints(reference, converted):
    with pytest.raises(ValueError, match=r"found 2 keys such as \['bias', 'weight'\]"):
        convert_birefnet_state_dict(nn.Linear(1, 1).state_dict())
    with pytest.raises(ValueError, match='is already a checkpoint of mmbirefnet'):
        convert_birefnet_state_dict(converted)
    with pytest.raises(ValueError, match=r"1 of \d+ keys have no counterpart, such as \['refiner.conv.weight'\]"):
        convert_birefnet_state_dict(reference | {'refiner.conv.weight': torch.zeros(1)})


def test_load_takes_both_forms(tmp_path, reference, converted):
    scalars = {key: value.new_ones(()).expand(value.shape) for key, value in reference.items()}  # small files
    torch.save(scalars, tmp_path / 'theirs.pth')
    found = load_birefnet_state_dict(tmp_path / 'theirs.pth')
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in converted.items()}
    ours = {key: value.new_ones(()).expand(value.shape) for key, value in converted.items()}
    torch.save(dict(state_dict=ours), tmp_path / 'ours.pth')
    assert load_birefnet_state_dict(tmp_path / 'ours.pth').keys() == converted.keys()
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth: not a BiRefNet checkpoint'):
        load_birefnet_state_dict(tmp_path / 'other.pth')


@pytest.mark.parametrize(
    ('fact', 'value'),
    [
        ('input_size', 1024),
        ('input_size', [1024]),
        ('input_size', (1000, 1000)),
        ('input_size', [0, 1024]),
        ('input_size', [10**9, 1024]),
        ('input_size', torch.tensor([1024, 1024])),
        ('input_size', 'a' * 100_000),
        ('input_size', None),
        ('crop_order', ['rows']),
        ('model_name', 7),
    ],
)
@pytest.mark.soak(keep=3)
def test_wrong_metadata_is_rejected(tmp_path, reference, converted, fact, value):
    """In the meta of a checkpoint, or in the config.json beside one."""
    ours = {key: value.new_ones(()).expand(value.shape) for key, value in converted.items()}
    torch.save(dict(state_dict=ours, meta={fact: value}), tmp_path / 'ours.pth')
    with pytest.raises(ValueError, match=rf'ours\.pth: {fact} in its meta is .*, must be ') as error:
        load_birefnet(tmp_path / 'ours.pth')
    assert len(str(error.value)) < 400
    if fact != 'model_name' and value is not None and not isinstance(value, torch.Tensor):
        (tmp_path / 'config.json').write_text(json.dumps(dict(mmbirefnet={fact: value})))
        theirs = {key: value.new_ones(()).expand(value.shape) for key, value in reference.items()}
        torch.save(theirs, tmp_path / 'model.pth')
        with pytest.raises(ValueError, match=rf'model\.pth: {fact} in its config\.json is '):
            load_birefnet(tmp_path / 'model.pth')


def test_config_of_a_folder_that_cannot_be_read(tmp_path, reference):
    """It is left aside, like that of any other program."""
    theirs = {key: value.new_ones(()).expand(value.shape) for key, value in reference.items()}
    torch.save(theirs, tmp_path / 'pytorch_model.bin')
    for content in ('[' * 100_000, '{"mmbirefnet": 5, "_name_or_path": [1]}', '7', '\0', 'null'):
        (tmp_path / 'config.json').write_text(content)
        assert load_birefnet(tmp_path).meta == dict(crop_order='rows')
    (tmp_path / 'config.json').unlink()
    os.mkfifo(tmp_path / 'config.json')
    assert load_birefnet(tmp_path).meta == dict(crop_order='rows')


@pytest.mark.parametrize(
    ('name', 'model', 'size'),
    [('BiRefNet_HR-general-epoch_130.pth', None, None), ('BiRefNet_lite.pth', 'BiRefNet_lite', (1024, 1024))],
)
def test_a_name_that_does_not_fit_the_backbone(tmp_path, reference, name, model, size):
    """The parameters are Swin-T's: neither size nor license of a Swin-L is theirs."""
    torch.save({key: value.new_ones(()).expand(value.shape) for key, value in reference.items()}, tmp_path / name)
    meta = load_birefnet(tmp_path / name).meta
    assert (meta.get('model_name'), meta.get('input_size')) == (model, size)


def test_parameter_with_a_prefix_and_without(tmp_path, converted):
    ours = {key: value.new_ones(()).expand(value.shape) for key, value in converted.items()}
    key = 'decode_head.conv_logits.bias'
    torch.save(ours | {f'module.{key}': torch.zeros(1)}, tmp_path / 'twice.pth')
    with pytest.raises(ValueError, match=rf'twice\.pth: {key} occurs twice'):
        load_birefnet(tmp_path / 'twice.pth')


def test_parameters_that_repeat_few_numbers(tmp_path):
    """Their conversion would write gigabytes of a file of kilobytes."""
    torch.save({f'bb.{k}': torch.zeros(1).expand(8192, 8192) for k in range(9)}, tmp_path / 'small.pth')
    assert (tmp_path / 'small.pth').stat().st_size < 10_000
    with pytest.raises(ValueError, match=r'small\.pth: its parameters claim 2415919104 bytes, and hold 36'):
        load_birefnet(tmp_path / 'small.pth')


def on_meta(model: dict) -> dict:
    with torch.device('meta'):
        return MODELS.build(model).state_dict()


def includes(config: dict, part: dict) -> bool:
    return all(
        includes(config[key], value) if isinstance(value, dict) else config[key] == value
        for key, value in part.items()
        if key in config
    )


@pytest.mark.parametrize(('arch', 'c1'), [('t', 96), ('s', 96), ('b', 128), ('l', 192)])
@pytest.mark.soak(keep=2)
def test_infer_the_backbone(arch, c1):
    (path,) = CONFIGS.glob(f'birefnet_swin-{arch}_8xb4-*_dis5k-1024x1024.py')
    cfg = Config.fromfile(path).model
    state = on_meta(cfg)
    found = infer_model_config(state)
    assert found['backbone']['arch'] == arch
    assert found['backbone_channels'] == [c1, 2 * c1, 4 * c1, 8 * c1]
    assert found['multi_scale_input']
    assert includes(cfg, found)
    check_fit(state, found)


DILATED = dict(conv_cfg=None, kernel_sizes=(1, 3, 3, 3), dilations=(1, 6, 12, 18))


@pytest.mark.parametrize(
    'options',
    [
        dict(decode_head=dict(inward_reference=False)),
        dict(decode_head=dict(outward_reference=False, gradient_supervision=False)),
        dict(decode_head=dict(gradient_supervision=False)),
        dict(decode_head=dict(multi_scale_supervision=False, gradient_supervision=False)),
        dict(decode_head=dict(residual=True)),
        dict(decode_head=dict(aspp_cfg=None), neck=dict(aspp_cfg=DILATED)),
        dict(decode_head=dict(aspp_cfg=dict(conv_cfg=None)), neck=dict(aspp_cfg=None)),
        dict(neck=dict(context=False)),
        dict(neck=dict(context=False, squeeze=False)),
        dict(neck=dict(aux_classifier=True, num_classes=12)),
        dict(multi_scale_input=False),
    ],
    ids=str,
)
@pytest.mark.soak(keep=4)
def test_infer_options(options):
    cfg = model_config()
    if 'multi_scale_input' in options:
        cfg['neck']['in_channels'] = cfg['decode_head']['in_channels'] = [96, 192, 384, 768]
    for key, value in options.items():
        cfg[key] = cfg[key] | value if isinstance(value, dict) else value
    state = on_meta(cfg)
    found = infer_model_config(state)
    check_fit(state, found)
    # What is not among the options is at its default.
    plain = infer_model_config(on_meta(model_config()))
    for part in ('neck', 'decode_head'):
        expected = plain[part] | options.get(part, {})
        if options.get('neck', {}).get('squeeze') is False and part == 'neck':
            del expected['aspp_cfg']
        assert found[part] == expected
    assert found['backbone_channels'] == [96, 192, 384, 768]
    assert found['multi_scale_input'] == options.get('multi_scale_input', True)


def test_infer_of_something_else(converted):
    with pytest.raises(
        ValueError, match=r"expected the parameters of one of the ref.*found \['backbone\.conv1\.weight'\]"
    ):
        infer_model_config(without(converted, 'backbone.') | {'backbone.conv1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match=r'no known Swin Transformer has .*depths.*\(2, 2, 5, 2\)'):
        infer_model_config(without(converted, 'layers.2.blocks.5.'))
    with pytest.raises(ValueError, match=r'decode_head\.laterals\.2\.weight is missing'):
        infer_model_config(without(converted, 'laterals.2'))


def test_networks_released_before_may_2024_are_rejected(reference):
    """They have four inward references, none of them at the deepest stage."""
    early = without(reference, 'ipt_blk5')
    with pytest.raises(ValueError, match=r'released before May 2024 \(BiRefNet_ep480, DIS_ep580 .*Fix: use a'):
        convert_birefnet_state_dict(early)


@pytest.mark.parametrize('depths', [(2, 2, 24, 2), (2, 2, 8, 4)])
def test_other_depths_of_swin(depths):
    """FeyNobg has 24 blocks in the third stage."""
    arch = dict(embed_dims=192, depths=depths, num_heads=(6, 12, 24, 48), window_size=12)
    channels = [384, 768, 1536, 3072]
    state = on_meta(model_config(arch=arch, channels=channels))
    found = infer_model_config(state)
    assert found['backbone']['arch'] == arch
    assert infer_backbone_name(state) == 'swin-l'
    check_fit(state, found)
    if depths[2] == 24:  # as published: 263 M parameters
        assert sum(value.numel() for value in state.values()) == pytest.approx(263e6, rel=0.01)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_own_checkpoints_with_prefixes(tmp_path, converted, prefix):
    state = {key: value.new_ones(()).expand(value.shape) for key, value in converted.items()}
    torch.save(dict(state_dict={prefix + key: value for key, value in state.items()}), tmp_path / 'ours.pth')
    assert load_birefnet_state_dict(tmp_path / 'ours.pth').keys() == converted.keys()


def test_check_fit(converted):
    model = infer_model_config(converted)
    check_fit(converted, model)
    with pytest.raises(ValueError, match=r'do not fit the model: missing \(1\): decode_head\.conv_logits\.bias'):
        check_fit(without(converted, 'conv_logits.bias'), model)
    with pytest.raises(ValueError, match=r'unexpected \(1\): decode_head\.extra'):
        check_fit(converted | {'decode_head.extra': torch.zeros(1)}, model)
    with pytest.raises(
        ValueError, match=r'shape \(1\): decode_head\.conv_logits\.bias is \(7,\) in the file and \(1,\)'
    ):
        check_fit(converted | {'decode_head.conv_logits.bias': torch.zeros(7)}, model)
