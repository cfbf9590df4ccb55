"""The converter's command line."""

import argparse
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from golden import reference_state_dict
from mmengine.config import Config, DictAction
from mmengine.runner import load_checkpoint
from reference_network import build
from safetensors.torch import save_file
from torch import nn

from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, convert_birefnet_state_dict

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools/model_converters/birefnet2mmbirefnet.py'


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(SCRIPT))['main']


@pytest.fixture(scope='module')
def reference() -> dict:
    """With one value per parameter, so that files are small."""
    state = reference_state_dict(classifier=True)
    return {key: value.flatten()[0].clone().expand(value.shape) for key, value in state.items()}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def told(output: str, line: str) -> tuple[Config, list[str]]:
    """The config that a printed command names, with its options applied, and the command's words."""
    (command,) = (text for text in output.splitlines() if text.startswith(line))
    words = shlex.split(command.removeprefix(line))
    (config,) = (word for word in words if word.startswith('configs/'))
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    options, _ = parser.parse_known_args(words)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options.cfg_options)
    return cfg, words


def test_convert(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'released.pth', tmp_path / 'new' / 'birefnet.pth'
    torch.save({f'module.{key}': value for key, value in reference.items()}, src)
    main([str(src), str(dst)])
    output = capsys.readouterr().out

    checkpoint = torch.load(dst, weights_only=True)
    assert checkpoint['meta']['converted_from'] == 'released.pth'
    assert checkpoint['meta']['dataset_meta']['classes'] == ('background', 'foreground')
    expected = convert_birefnet_state_dict(reference)
    assert checkpoint['state_dict'].keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in checkpoint['state_dict'].items())

    # The commands that it names build the model that the file fits, which mmengine then loads.
    cfg, words = told(output, 'test:')
    assert words[:4] == [
        'python',
        'tools/test.py',
        'configs/birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py',
        str(dst),
    ]
    assert words[4:] == ['--cfg-options', 'model.neck.aux_classifier=True']
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(dst), strict=True)
    name = 'decode_head.blocks.1.reconstruction.conv_in.weight'
    assert torch.equal(model.state_dict()[name], expected[name])
    cfg, words = told(output, 'fine-tune:')
    assert words[:2] == ['python', 'tools/train.py']
    assert cfg.load_from == str(dst)
    assert cfg.model.backbone.init_cfg is None


def test_convert_safetensors(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'model.safetensors', tmp_path / 'birefnet.pth'
    plain = {key: value for key, value in reference.items() if not key.startswith('cls_head')}
    save_file({key: value.half().contiguous() for key, value in plain.items()}, src)
    main([str(src), str(dst)])
    src.unlink()
    _, words = told(capsys.readouterr().out, 'test:')
    assert '--cfg-options' not in words
    found = torch.load(dst, weights_only=True)['state_dict']
    dst.unlink()
    expected = convert_birefnet_state_dict(plain)
    assert found.keys() == expected.keys()
    key = 'decode_head.blocks.4.outward.conv.weight'
    assert torch.equal(found[key], expected[key].half())


@pytest.mark.parametrize(
    ('backbone', 'untrained'),
    [('pvtv2-b0', 'pretrained'), ('r50', 'init_cfg'), ('vgg16-bn', 'init_cfg'), ('dinov3-s', 'pretrained')],
)
def test_other_backbones(main, tmp_path, capsys, backbone, untrained):
    with torch.device('meta'):
        shapes, _ = build(backbone)
    dtypes = {key: getattr(torch, dtype) for key, (_, dtype) in shapes.items()}
    state = {key: torch.ones((), dtype=dtypes[key]).expand(shape) for key, (shape, _) in shapes.items()}
    torch.save(without(state, 'cls_head'), tmp_path / 'released.pth')
    main([str(tmp_path / 'released.pth'), str(tmp_path / 'out.pth')])
    output = capsys.readouterr().out
    cfg, words = told(output, 'test:')
    assert words[2:] == [
        f'configs/birefnet/birefnet_{backbone}_8xb4-500e_dis5k-1024x1024.py',
        str(tmp_path / 'out.pth'),
    ]
    check_fit(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'], cfg.model)
    cfg, _ = told(output, 'fine-tune:')
    assert not cfg.model.backbone[untrained]


def dilated(reference: dict) -> dict:
    """With the dilated pyramid instead of the deformable one."""
    state = {}
    for key, value in reference.items():
        if 'offset_conv' in key or 'modulator_conv' in key:
            continue
        for i, size in enumerate((1, 3, 3, 3)):
            ours = f'aspp{i + 1}.atrous_conv.weight'
            theirs = (
                f'aspp_deforms.{i - 1}.atrous_conv.regular_conv.weight'
                if i
                else 'aspp1.atrous_conv.regular_conv.weight'
            )
            if key.endswith(theirs):
                key, value = key.replace(theirs, ours), torch.ones(()).expand(256, 64, size, size)
            elif i and f'aspp_deforms.{i - 1}.bn' in key:
                key = key.replace(f'aspp_deforms.{i - 1}.bn', f'aspp{i + 1}.bn')
        state[key] = value
    return state


def without(state: dict, *words: str) -> dict:
    return {key: value for key, value in state.items() if not any(word in key for word in words)}


@pytest.mark.parametrize(
    ('change', 'option'),
    [
        (lambda state: without(state, 'gdt_convs'), 'model.decode_head.outward_reference=False'),
        (lambda state: without(state, 'gdt_convs_pred'), 'model.decode_head.gradient_supervision=False'),
        (
            lambda state: without(state, 'conv_ms_spvn', 'gdt_convs_pred'),
            'model.decode_head.multi_scale_supervision=False',
        ),
        (dilated, 'model.decode_head.aspp_cfg.dilations=(1,6,12,18)'),
    ],
)
def test_options_of_ablations(main, reference, tmp_path, capsys, change, option):
    torch.save(change(without(reference, 'cls_head')), tmp_path / 'ablation.pth')
    main([str(tmp_path / 'ablation.pth'), str(tmp_path / 'out.pth')])
    cfg, words = told(capsys.readouterr().out, 'test:')
    assert option in words
    check_fit(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'], cfg.model)


def error(main, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code != 0
    return str(stopped.value.code)


def test_nothing_is_overwritten_unasked(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'released.pth', tmp_path / 'out.pth'
    torch.save(without(reference, 'cls_head'), src)
    dst.write_bytes(b'precious')
    assert error(main, src, dst) == f'error: {dst}: exists already; --overwrite replaces it'
    assert dst.read_bytes() == b'precious'
    assert error(main, src, src, '--overwrite') == f'error: {src}: is the file to be converted'
    assert '.pth file' in error(main, src, tmp_path / 'out.safetensors')
    main([str(src), str(dst), '--overwrite'])
    assert torch.load(dst, weights_only=True).keys() == {'meta', 'state_dict'}


def test_what_is_no_birefnet(main, reference, tmp_path):
    src, dst = tmp_path / 'src.pth', tmp_path / 'out.pth'
    assert error(main, src, dst) == f'error: {src}: no such file'
    torch.save(nn.Linear(1, 1).state_dict(), src)
    assert f'{src}: not a BiRefNet checkpoint: expected keys' in error(main, src, dst)
    src.write_bytes(b'<html>')
    assert error(main, src, dst) == f'error: {src}: damaged, or no PyTorch checkpoint'
    torch.save(dict(state_dict=convert_birefnet_state_dict(reference)), src)
    assert f'{src}: this is a checkpoint of mmbirefnet already' in error(main, src, dst)
    torch.save(without(reference, 'layers.2.blocks.5.'), src)
    assert f'{src}: no known Swin Transformer' in error(main, src, dst)
    torch.save(without(reference, 'lateral_block3.conv.bias'), src)
    assert f'{src}: the parameters do not fit the model: missing (1): decode_head.laterals.3.bias' in error(
        main, src, dst
    )
    assert not dst.exists()
