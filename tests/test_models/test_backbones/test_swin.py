"""SwinTransformer against mmsegmentation's, and its checkpoints."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmseg.models.backbones import SwinTransformer as MMSegSwin
from tool_module import load_tool
from torch import nn

from mmbirefnet.models import SwinTransformer
from mmbirefnet.models.backbones.swin import ARCHITECTURES, WindowAttention
from mmbirefnet.models.backbones.swin_checkpoint import swin_state_dict
from mmbirefnet.registry import MODELS


def arch(window_size=4, depths=(2, 2, 2, 2)) -> dict:
    return dict(embed_dims=16, depths=depths, num_heads=(1, 2, 4, 8), window_size=window_size)


def seeded(model: nn.Module) -> nn.Module:
    """With parameters none of which is at its initial value, so that each matters."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.5 if 'bias_table' in name else parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        noise = scale * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + (parameter.dim() == 1 and name.endswith('weight'))
    return model


def image(height, width, n=1, seed=1) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def published_to_mmseg():
    """mmsegmentation's own converter of the published checkpoints, from the tools in its package."""
    path = Path(mmseg.__file__).parent / '.mim/tools/model_converters/swin2mmseg.py'
    return load_tool(path).convert_swin


def without_buffers(state: dict) -> dict:
    return {key: value for key, value in state.items() if 'relative_position_index' not in key}


# At 64x92 the maps of windows 7 and 12 are 16x23, 8x12, 4x6, 2x3: odd, and smaller than the window.
@pytest.mark.parametrize(('window_size', 'size'), [(7, (128, 128)), (7, (64, 92)), (12, (192, 96)), (12, (64, 92))])
def test_equals_mmseg(window_size, size, published_to_mmseg):
    ours = seeded(SwinTransformer(arch(window_size))).eval()
    theirs = MMSegSwin(**arch(window_size), drop_path_rate=0.0)
    theirs.eval()
    missing, unexpected = theirs.load_state_dict(published_to_mmseg(ours.state_dict()), strict=False)
    assert not unexpected
    assert all('relative_position_index' in key for key in missing)
    with torch.no_grad():
        x = image(*size, n=2)
        for found, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    # And back from mmseg's form, to the bit.
    back = swin_state_dict({'state_dict': {f'backbone.{key}': value for key, value in theirs.state_dict().items()}})
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in back.items())


def test_sizes_that_are_no_multiple_of_the_patch():
    ours = seeded(SwinTransformer(arch())).eval()
    x = image(61, 75)
    with torch.no_grad():
        for found, expected in zip(ours(x), ours(nn.functional.pad(x, (0, 1, 0, 3)))):
            torch.testing.assert_close(found, expected)
    assert [tuple(y.shape[1:]) for y in ours(x)] == [(16, 16, 19), (32, 8, 10), (64, 4, 5), (128, 2, 3)]


@pytest.mark.parametrize(
    ('name', 'millions'), [('t', 27.5), ('s', 48.8), ('b', 86.9), ('l', 195.2)]
)  # from the Swin paper's model zoo, without the classifier, with four output norms
def test_number_of_parameters(name, millions):
    with torch.device('meta'):
        model = SwinTransformer(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * 1e6, abs=0.06e6)


def published(model: SwinTransformer) -> dict:
    """What the authors' files hold: derived buffers, the last norm and a classifier, but no norms of the outputs."""
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('norm')}
    state['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16, dtype=torch.long)
    state['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    state |= {'norm.weight': torch.ones(128), 'head.weight': torch.ones(10, 128), 'head.bias': torch.ones(10)}
    return {'model': state}


def test_pretrained_checkpoint_as_published(tmp_path):
    pretrained = seeded(SwinTransformer(arch()))
    file = str(tmp_path / 'swin.pth')
    torch.save(published(pretrained), file)
    model = SwinTransformer(arch(), init_cfg=dict(type='Pretrained', checkpoint=file))
    model.init_weights()
    for key, value in pretrained.state_dict().items():
        # Norms of the outputs are not in the file and keep their initial values.
        expected = value if not key.startswith('norm') else torch.full_like(value, float(key.endswith('weight')))
        assert torch.equal(model.state_dict()[key], expected), key


def test_pretrained_checkpoint_of_this_project(tmp_path):
    pretrained = seeded(SwinTransformer(arch()))
    file = str(tmp_path / 'birefnet.pth')
    state = {f'backbone.{key}': value for key, value in pretrained.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state | {'decode_head.conv.weight': torch.ones(1)}), file)
    model = SwinTransformer(arch(), init_cfg=dict(type='Pretrained', checkpoint=file))
    model.init_weights()
    assert all(torch.equal(value, pretrained.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ('wanted', 'problem'),
    [
        (arch(window_size=7), r'of another shape.*bias_table is \(49, 1\) in the file and \(169, 1\)'),
        (arch(depths=(2, 2, 4, 2)), r'missing.*layers\.2\.blocks\.2'),
        (arch() | dict(depths=(2, 2, 2, 1)), r'unexpected.*layers\.3\.blocks\.1'),
    ],
)
def test_pretrained_checkpoint_of_another_arch(tmp_path, wanted, problem):
    file = str(tmp_path / 'other.pth')
    torch.save(published(SwinTransformer(arch())), file)
    model = SwinTransformer(wanted, init_cfg=dict(type='Pretrained', checkpoint=file))
    with pytest.raises(ValueError, match=rf'other\.pth.*{problem}'):
        model.init_weights()


def test_unknown_arch():
    with pytest.raises(ValueError, match=r"arch='h' is unknown; use one of \['b', 'l', 's', 't'\]"):
        SwinTransformer('h')
    assert set(ARCHITECTURES) == set('tsbl')


def test_initial_weights():
    torch.manual_seed(0)
    model = SwinTransformer(arch(depths=(2, 2, 6, 2)))
    model.init_weights()
    weights = torch.cat([block.mlp.fc1.weight.flatten() for block in model.layers[2].blocks])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.layers[0].blocks[0].attn.qkv.bias.any()
    # Any other init_cfg is obeyed too.
    model = SwinTransformer(arch(), init_cfg=dict(type='Constant', layer='Linear', val=0.5))
    model.init_weights()
    assert (model.layers[0].blocks[0].mlp.fc1.weight == 0.5).all()


def loss_of(model: SwinTransformer, n=1) -> torch.Tensor:
    torch.manual_seed(3)
    return sum((y.float() * image(*y.shape[2:], seed=i)[:, :1]).sum() for i, y in enumerate(model(image(64, 64, n))))


def gradients(model: SwinTransformer) -> dict:
    model.zero_grad()
    loss_of(model).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize('frozen_stages', [-1, 0])
def test_checkpointed_gradients_are_equal(frozen_stages):
    model = seeded(SwinTransformer(arch(), frozen_stages=frozen_stages, drop_path_rate=0.5)).train()
    expected = gradients(model)
    model.with_cp = True
    calls = []
    model.layers[0].blocks[0].mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(model)
    assert len(calls) == 2  # once more in the backward pass
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max().item())


def test_attention_keeps_only_its_input():
    attention, norm, x = WindowAttention(16, 2, 4, shift=2), nn.LayerNorm(16), torch.randn(1, 30, 34, 16)
    x.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention.train()(x, norm)
    maps = {tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()}
    assert maps == {x.data_ptr()}


def test_every_parameter_gets_a_gradient():
    found = gradients(seeded(SwinTransformer(arch(), drop_path_rate=0.0)).train())
    assert [name for name, gradient in found.items() if gradient is None or not gradient.any()] == []


def test_frozen_stages():
    model = SwinTransformer(arch(), frozen_stages=2, drop_rate=0.5, drop_path_rate=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.train() is model
    assert not any(
        module.training
        for part in (model.patch_embed, model.pos_drop, model.layers[0], model.layers[1])
        for module in part.modules()
    )
    assert model.layers[2].training
    found = gradients(model)
    frozen = ('patch_embed.', 'layers.0.', 'layers.1.', 'norm0.', 'norm1.')
    for name, gradient in found.items():
        assert (gradient is None) == name.startswith(frozen), name
    torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1).step()
    for name, value in model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(
        model.state_dict()['layers.2.blocks.0.mlp.fc2.weight'], before['layers.2.blocks.0.mlp.fc2.weight']
    )


def test_drop_path_is_active_in_training_only():
    model = seeded(SwinTransformer(arch(), drop_path_rate=0.5))
    x = image(32, 32, n=4)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(x)[3], model(x)[3])
        model.eval()
        assert torch.equal(model(x)[3], model(x)[3])
        expected = [y.clone() for y in model(x)]
    # Without drop path, training computes what evaluation does.
    model = seeded(SwinTransformer(arch(), drop_path_rate=0.0)).train()
    with torch.no_grad():
        assert all(torch.equal(y, z) for y, z in zip(model(x), expected))
    # From 0 in the first block to the given rate in the last.
    blocks = [block for stage in SwinTransformer(arch(), drop_path_rate=0.7).layers for block in stage.blocks]
    assert [block.drop_path.drop_prob for block in blocks] == pytest.approx([i / 10 for i in range(8)])


def test_bfloat16_autocast():
    model = seeded(SwinTransformer(arch())).eval()
    x = image(64, 92)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found = model(x)
    for y, z in zip(found, expected):
        assert not torch.equal(y.float(), z)
        assert (y - z).abs().mean() < 0.03 * z.abs().mean()
    model.train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_out_indices():
    everything = seeded(SwinTransformer(arch())).eval()
    some = SwinTransformer(arch(), out_indices=(1, 3)).eval()
    some.load_state_dict(everything.state_dict(), strict=False)
    x = image(64, 64)
    with torch.no_grad():
        found, expected = some(x), everything(x)
    assert len(found) == 2
    assert torch.equal(found[0], expected[1])
    assert torch.equal(found[1], expected[3])


def test_drops_into_upernet():
    """As the backbone of another model in mmsegmentation's scope."""
    channels = [16, 32, 64, 128]
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(type='mmbirefnet.SwinTransformer', arch=arch(), drop_path_rate=0.1),
            decode_head=dict(
                type='UPerHead',
                in_channels=channels,
                in_index=[0, 1, 2, 3],
                pool_scales=(1, 2, 3, 6),
                channels=16,
                dropout_ratio=0.1,
                num_classes=3,
                norm_cfg=dict(type='BN'),
                align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss'),
            ),
            test_cfg=dict(mode='whole'),
        )
    )
    model.init_weights()
    model.eval()
    with torch.no_grad():
        x = image(64, 96)
        logits = model(x, mode='tensor')
        assert logits.shape == (1, 3, 16, 24)
        assert torch.equal(logits, model.decode_head(model.backbone(x)))
