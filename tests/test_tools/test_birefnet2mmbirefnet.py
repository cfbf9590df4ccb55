"""The converter's command line."""

import argparse
import hashlib
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from golden import reference_state_dict, with_one_value, without
from mmengine.config import Config, DictAction
from mmengine.runner import load_checkpoint
from reference_network import build
from safetensors.torch import load_file, save_file
from torch import nn

from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.models.segmentors.lora import write_adapters
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, convert_birefnet_state_dict

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools/model_converters/birefnet2mmbirefnet.py'


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(SCRIPT))['main']


@pytest.fixture(scope='module')
def reference() -> dict:
    return with_one_value(reference_state_dict(classifier=True))


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed_command(output: str, line: str) -> tuple[Config, list[str]]:
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


@pytest.mark.soak
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
    cfg, words = printed_command(output, 'test:')
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
    cfg, words = printed_command(output, 'fine-tune:')
    assert words[:2] == ['python', 'tools/train.py']
    assert cfg.load_from == str(dst)
    assert cfg.model.backbone.init_cfg is None


def test_a_released_model_is_named_with_its_size_and_configs(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'BiRefNet_lite-general-2K-epoch_232.pth', tmp_path / 'ours.pth'
    torch.save(without(reference, 'cls_head'), src)
    main([str(src), str(dst)])
    output = capsys.readouterr().out
    assert 'model:     BiRefNet_lite-2K (general), trained at 2560x1440, weights under MIT' in output
    cfg, words = printed_command(output, 'test:')
    assert words[2] == 'configs/birefnet_general/birefnet_swin-t_8xb4-250e_general-2560x1440.py'
    cfg, words = printed_command(output, 'fine-tune:')
    assert words[2] == 'configs/birefnet_general/birefnet_swin-t_1xb2-20e_finetune-2560x1440.py'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert [tuple(step.scale) for step in loader.dataset.pipeline if 'Resize' in step.type] == [(2560, 1440)]
    assert cfg.default_hooks.pretrained_checkpoint.type == 'mmbirefnet.PretrainedCheckpointHook'

    meta = torch.load(dst, weights_only=True)['meta']
    assert (meta['model_name'], meta['input_size']) == ('BiRefNet_lite-2K', (1440, 2560))
    assert meta['crop_order'] == 'columns'  # expected; constant weights do not show it
    assert meta['source_sha256'] == hashlib.sha256(src.read_bytes()).hexdigest()


def test_the_order_of_the_crops_can_be_given(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'BiRefNet_lite.pth', tmp_path / 'ours.pth'
    torch.save(without(reference, 'cls_head'), src)
    main([str(src), str(dst), '--crop-order', 'rows'])
    assert 'crops:     stacked by rows' in capsys.readouterr().out
    assert torch.load(dst, weights_only=True)['meta']['crop_order'] == 'rows'


@pytest.mark.soak
def test_other_depths_of_swin(main, reference, tmp_path, capsys):
    """As options that replace the architecture's name, which the printed commands have."""
    deeper = {
        key.replace('layers.2.blocks.5', f'layers.2.blocks.{k}'): value
        for k in (6, 7)
        for key, value in reference.items()
        if 'layers.2.blocks.5' in key
    }
    torch.save(without(reference | deeper, 'cls_head'), tmp_path / 'deep.pth')
    main([str(tmp_path / 'deep.pth'), str(tmp_path / 'ours.pth')])
    output = capsys.readouterr().out
    for line in ('test:', 'fine-tune:'):
        cfg, _ = printed_command(output, line)
        assert tuple(cfg.model.backbone.arch.depths) == (2, 2, 8, 2)
        check_fit(torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict'], cfg.model)


@pytest.mark.soak
def test_converts_back_to_the_reference_format(main, reference, tmp_path, capsys):
    src, ours, back = tmp_path / 'released.pth', tmp_path / 'ours.pth', tmp_path / 'release'
    torch.save(without(reference, 'cls_head'), src)
    main([str(src), str(ours), '--crop-order', 'rows'])
    main([str(ours), str(back), '--to', 'reference'])
    assert str(back / 'README.md') in capsys.readouterr().out
    found = load_file(back / 'model.safetensors')
    assert all(torch.equal(found[key], value) for key, value in reference.items() if not skipped(key))
    assert f'error: {back}: already exists. Fix: --overwrite' in error(main, ours, back, '--to', 'reference')
    main([str(ours), str(back), '--to', 'reference', '--overwrite'])
    assert 'must be a .pth or .safetensors file, or a folder' in error(
        main, ours, tmp_path / 'a.onnx', '--to', 'reference'
    )


def skipped(key: str) -> bool:
    return key.startswith('cls_head') or key.endswith('relative_position_index')


def test_networks_released_before_may_2024_are_rejected(main, reference, tmp_path):
    for name, state in (('BiRefNet-ep480.pth', reference), ('old.pth', without(reference, 'ipt_blk5'))):
        torch.save(state, tmp_path / name)
        assert f'{tmp_path / name}: this is the network released before May 2024' in error(
            main, tmp_path / name, tmp_path / 'ours.pth'
        )


def test_convert_safetensors(main, reference, tmp_path, capsys):
    src, dst = tmp_path / 'model.safetensors', tmp_path / 'birefnet.pth'
    plain = {key: value for key, value in reference.items() if not key.startswith('cls_head')}
    save_file({key: value.half().contiguous() for key, value in plain.items()}, src)
    main([str(src), str(dst)])
    src.unlink()
    _, words = printed_command(capsys.readouterr().out, 'test:')
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
@pytest.mark.soak(keep=1)
def test_other_backbones(main, tmp_path, capsys, backbone, untrained):
    with torch.device('meta'):
        shapes, _ = build(backbone)
    dtypes = {key: getattr(torch, dtype) for key, (_, dtype) in shapes.items()}
    state = {key: torch.ones((), dtype=dtypes[key]).expand(shape) for key, (shape, _) in shapes.items()}
    torch.save(without(state, 'cls_head'), tmp_path / 'released.pth')
    main([str(tmp_path / 'released.pth'), str(tmp_path / 'out.pth')])
    output = capsys.readouterr().out
    cfg, words = printed_command(output, 'test:')
    assert words[2:] == [
        f'configs/birefnet/birefnet_{backbone}_8xb4-500e_dis5k-1024x1024.py',
        str(tmp_path / 'out.pth'),
    ]
    check_fit(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'], cfg.model)
    cfg, _ = printed_command(output, 'fine-tune:')
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
@pytest.mark.soak(keep=1)
def test_options_of_ablations(main, reference, tmp_path, capsys, change, option):
    torch.save(change(without(reference, 'cls_head')), tmp_path / 'ablation.pth')
    main([str(tmp_path / 'ablation.pth'), str(tmp_path / 'out.pth')])
    cfg, words = printed_command(capsys.readouterr().out, 'test:')
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
    assert error(main, src, dst) == f'error: {dst}: already exists. Fix: --overwrite replaces it'
    assert dst.read_bytes() == b'precious'
    assert error(main, src, src, '--overwrite') == f'error: {src}: is also the file to convert. Fix: choose another DST'
    assert '.pth file' in error(main, src, tmp_path / 'out.safetensors')
    main([str(src), str(dst), '--overwrite'])
    assert torch.load(dst, weights_only=True).keys() == {'meta', 'state_dict'}


def test_files_that_are_not_birefnet_are_rejected(main, reference, tmp_path):
    src, dst = tmp_path / 'src.pth', tmp_path / 'out.pth'
    assert error(main, src, dst) == f'error: {src}: no such file'
    torch.save(nn.Linear(1, 1).state_dict(), src)
    assert f'{src}: not a BiRefNet checkpoint: expected keys' in error(main, src, dst)
    src.write_bytes(b'<html>')
    assert error(main, src, dst) == f'error: {src}: damaged, or not a PyTorch checkpoint'
    torch.save(dict(state_dict=convert_birefnet_state_dict(reference)), src)
    assert f'{src}: is already a checkpoint of mmbirefnet' in error(main, src, dst)
    torch.save(without(reference, 'layers.2.blocks.5.'), src)
    assert f'{src}: no known Swin Transformer' in error(main, src, dst)
    torch.save(without(reference, 'lateral_block3.conv.bias'), src)
    assert f'{src}: the parameters do not fit the model: missing (1): decode_head.laterals.3.bias' in error(
        main, src, dst
    )
    assert not dst.exists()


class TestAdapters:
    """Low-rank adapters of one layer, merged into a model of either form."""

    LAYER = 'decode_head.laterals.4'

    @pytest.fixture
    def adapters(self, reference, tmp_path):
        """A file, and the state dict that is expected, by hand: W + 0.5 * B A."""
        state = {key: value.clone() for key, value in convert_birefnet_state_dict(reference).items()}
        rows, columns = state[f'{self.LAYER}.weight'].shape[:2]
        up, down = torch.arange(rows).float()[:, None, None, None], torch.arange(columns).float()[None, :, None, None]
        tensors = {f'{self.LAYER}.lora_A.weight': down, f'{self.LAYER}.lora_B.weight': up}
        write_adapters(tmp_path / 'adapters.safetensors', tensors, 0.5)
        state[f'{self.LAYER}.weight'] += 0.5 * torch.outer(up.flatten(), down.flatten())[:, :, None, None]
        return tmp_path / 'adapters.safetensors', state

    @pytest.mark.soak
    @pytest.mark.parametrize('own', [False, True])
    def test_merged(self, main, reference, adapters, tmp_path, own):
        file, expected = adapters
        write_checkpoint(tmp_path / 'own.pth', convert_birefnet_state_dict(reference), dict(input_size=(512, 512)))
        torch.save(reference, tmp_path / 'released.pth')
        src, dst = tmp_path / ('own.pth' if own else 'released.pth'), tmp_path / 'merged.pth'
        main([str(src), str(dst), '--adapters', str(file)])
        merged = torch.load(dst, weights_only=True)
        assert merged['state_dict'].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(merged['state_dict'][key], value, rtol=0, atol=0)
        assert merged['meta']['finetuned_from'] == src.name
        assert merged['meta'].get('input_size') == ((512, 512) if own else None)
        main([str(src), str(tmp_path / 'reference.pth'), '--to', 'reference', '--adapters', str(file)])
        back = convert_birefnet_state_dict(torch.load(tmp_path / 'reference.pth', weights_only=True))
        torch.testing.assert_close(back[f'{self.LAYER}.weight'], expected[f'{self.LAYER}.weight'], rtol=0, atol=0)

    def test_of_another_model(self, main, reference, tmp_path):
        torch.save(reference, tmp_path / 'released.pth')
        tensors = {'x.lora_A.weight': torch.ones(1, 2), 'x.lora_B.weight': torch.ones(3, 1)}
        write_adapters(tmp_path / 'other.safetensors', tensors, 1.0)
        words = [str(tmp_path / name) for name in ('released.pth', 'merged.pth')]
        with pytest.raises(SystemExit, match=r'other\.safetensors: the adapter of x .* x\.weight is missing'):
            main([*words, '--adapters', str(tmp_path / 'other.safetensors')])
        with pytest.raises(SystemExit, match=r'none\.safetensors: no such file'):
            main([*words, '--adapters', str(tmp_path / 'none.safetensors')])
        assert not (tmp_path / 'merged.pth').exists()
