"""BiRefHead: its parts one by one, its losses, and other backbones and segmentors around it."""

import pytest
import torch
import torch.nn.functional as F
from golden import model_config, without_dropout
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmbirefnet.models import BiRefHead, DCNv2, Features
from mmbirefnet.models.decode_heads.biref_head import BiRefOutput
from mmbirefnet.models.layers import gradient_loss, gradient_target, resize
from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
CHANNELS = (32, 64, 128, 256)
ASPP = dict(branch_channels=16)
SWITCHES = (
    'inward_reference',
    'outward_reference',
    'multi_scale_supervision',
    'gradient_supervision',
    'context',
    'multi_scale_input',
    'aux_classifier',
)


def image(height=64, width=96, n=2, seed=0) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def samples(height=64, width=96, n=2) -> list[SegDataSample]:
    """Soft masks and classes."""
    masks = torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(5))
    result = []
    for mask in masks:
        sample = SegDataSample(metainfo=dict(class_label=3))
        sample.gt_sem_seg = PixelData(data=mask)
        result.append(sample)
    return result


def config(off: str = '', **head) -> dict:
    """A small model with every part, or with one of them off."""
    cfg = model_config(classifier=off != 'aux_classifier', arch=ARCH, channels=CHANNELS, aspp_cfg=ASPP, **head)
    cfg['neck']['aspp_cfg'] = ASPP
    if off in ('inward_reference', 'outward_reference', 'multi_scale_supervision', 'gradient_supervision'):
        cfg['decode_head'][off] = False
    elif off == 'context':
        cfg['neck']['context'] = False
    elif off == 'multi_scale_input':
        channels = [c // 2 for c in CHANNELS]
        cfg['multi_scale_input'] = False
        cfg['neck']['in_channels'] = cfg['decode_head']['in_channels'] = channels
    return cfg


def seeded(model: nn.Module) -> nn.Module:
    """With the same values in all parameters of the same name and shape; without chance."""
    for index, (name, parameter) in enumerate(sorted(model.named_parameters())):
        generator = torch.Generator().manual_seed(len(name) * 1000 + parameter.numel())
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        elif index % 3 == 0:
            parameter.data += 0.1
    return without_dropout(model)


def train_step(model: nn.Module, n=2, **size) -> dict[str, Tensor]:
    losses = model.train()(image(n=n, **size), samples(n=n, **size), mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    return losses


def assert_every_parameter_trains(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # Biases before a norm get a gradient too, but one of zero.
        assert parameter.dim() == 1 or parameter.grad.any(), name


@pytest.mark.parametrize('off', ['', *SWITCHES])
@pytest.mark.soak(keep=3)
def test_each_part_can_be_disabled(off):
    model = seeded(MODELS.build(config(off)))
    losses = train_step(model)
    assert_every_parameter_trains(model)
    expected = {'decode.loss_bce', 'decode.loss_gradient', 'neck.loss_cls'}
    if off in ('outward_reference', 'gradient_supervision'):
        expected -= {'decode.loss_gradient'}
    if off == 'aux_classifier':
        expected -= {'neck.loss_cls'}
    assert losses.keys() == expected
    model.eval()
    with torch.no_grad():
        logits = model(image(), mode='tensor')
        assert logits.shape == (2, 1, 64, 96)
        assert logits.std() > 0


def evaluate(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(image(), mode='tensor')


@pytest.fixture(scope='module')
def full_model():
    model = seeded(MODELS.build(config()))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return model, state


def without(full_model, off: str, pointless: tuple[str, ...]) -> nn.Module:
    """The model without a part, and with the remaining parameters of the full one."""
    model = MODELS.build(config(off))
    missing, unexpected = model.load_state_dict(full_model[1], strict=False)
    assert not missing
    assert unexpected
    assert all(any(part in name for part in pointless) for name in unexpected)
    return model


@pytest.mark.parametrize(
    ('off', 'parts'),
    [('gradient_supervision', ('.outward.gradient',)), ('aux_classifier', ('neck.classifier',))],
)
def test_supervision_leaves_prediction_alone(full_model, off, parts):
    full_model[0].load_state_dict(full_model[1])
    assert torch.equal(evaluate(without(full_model, off, parts)), evaluate(full_model[0]))


def test_side_outputs_are_built_only_if_needed(full_model):
    def has_sides(**options) -> bool:
        head = BiRefHead(CHANNELS, aspp_cfg=None, **options)
        return any('.side.' in name for name, _ in head.named_parameters())

    assert has_sides(multi_scale_supervision=False)  # for the gradient targets
    assert has_sides(gradient_supervision=False)
    assert not has_sides(multi_scale_supervision=False, gradient_supervision=False)
    assert not has_sides(multi_scale_supervision=False, outward_reference=False)


def test_outward_reference_is_a_factor(full_model):
    """Where the attention is one everywhere, it might as well be absent."""
    model, state = full_model
    model.load_state_dict(state)
    plain = without(full_model, 'outward_reference', ('.outward.',))
    assert (evaluate(plain) - evaluate(model)).abs().max() > 1e-2
    for k in '432':
        attention = model.decode_head.blocks[k].outward.attention
        attention.weight.data.zero_()
        attention.bias.data.fill_(100)
    torch.testing.assert_close(evaluate(plain), evaluate(model))


def test_inward_reference_is_joined_behind_the_map(full_model):
    """Where its features are zero it might as well be absent, kernels cut to the map's channels."""
    model, state = full_model
    model.load_state_dict(state)
    plain = MODELS.build(config('inward_reference'))
    cut = {}
    for name, value in plain.state_dict().items():
        cut[name] = state[name][:, : value.shape[1]] if value.dim() == 4 else state[name]
    plain.load_state_dict(cut)
    assert (evaluate(plain) - evaluate(model)).abs().max() > 1e-2
    for name, parameter in model.decode_head.named_parameters():
        if '.inward.conv_out.' in f'.{name}':
            parameter.data.zero_()
    torch.testing.assert_close(evaluate(plain), evaluate(model))


def test_multi_scale_input():
    model = seeded(MODELS.build(config())).eval()
    x = image()
    with torch.no_grad():
        half = F.interpolate(x, size=(32, 48), mode='bilinear', align_corners=True)
        for joined, full, small in zip(
            model.extract_backbone_feat(x), model.backbone(x), model.backbone(half), strict=True
        ):
            small = F.interpolate(small, size=full.shape[2:], mode='bilinear', align_corners=True)
            assert torch.equal(joined, torch.cat([full, small], 1))
        model = seeded(MODELS.build(config('multi_scale_input'))).eval()
        assert all(torch.equal(a, b) for a, b in zip(model.extract_backbone_feat(x), model.backbone(x), strict=True))


def output(height=16, width=24) -> BiRefOutput:
    """Maps such as the head gives in training for masks of that size."""
    generator = torch.Generator().manual_seed(0)

    def logits(stride):
        return torch.randn(2, 1, height // stride, width // stride, generator=generator)

    return BiRefOutput(
        logits(1), [logits(s) for s in (8, 4, 2)], [logits(s) for s in (8, 4, 2)], [logits(1) for _ in range(3)]
    )


def head(**options) -> BiRefHead:
    losses = [dict(type='mmbirefnet.BCELoss', loss_weight=3.0), dict(type='mmbirefnet.MAELoss', loss_weight=0.5)]
    return BiRefHead(CHANNELS, aspp_cfg=None, **{'loss_decode': losses, **options})


@pytest.mark.parametrize('multi_scale_supervision', [True, False])
def test_losses_are_summed_over_the_supervised_maps(multi_scale_supervision):
    targets = samples(16, 24)
    mask = torch.stack([sample.gt_sem_seg.data for sample in targets])
    maps = output()
    losses = head(multi_scale_supervision=multi_scale_supervision, loss_gradient_weight=0.7).loss_by_feat(maps, targets)
    supervised = [maps.logits, *(maps.side_logits if multi_scale_supervision else [])]
    resized = [F.interpolate(each, size=(16, 24), mode='bilinear', align_corners=True) for each in supervised]
    expected = sum(F.binary_cross_entropy(each.sigmoid(), mask) for each in resized)
    assert losses['loss_bce'].item() == pytest.approx(3 * expected.item(), rel=1e-5)
    expected = sum((each.sigmoid() - mask).abs().mean() for each in resized)
    assert losses['loss_mae'].item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    expected = sum(map(gradient_loss, maps.gradient_logits, maps.gradient_targets))
    assert losses['loss_gradient'].item() == pytest.approx(0.7 * expected.item(), rel=1e-6)
    assert losses.keys() == {'loss_bce', 'loss_mae', 'loss_gradient'}


def test_losses_of_mmseg():
    maps, targets = output(), samples(16, 24)
    for sample in targets:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data > 0.5).long()
    own = head(loss_decode=dict(type='mmbirefnet.BCELoss')).loss_by_feat(maps, targets)
    theirs = head(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)).loss_by_feat(maps, targets)
    torch.testing.assert_close(theirs['loss_ce'], own['loss_bce'])


def test_gradient_supervision_teaches_the_predictions_and_the_sides():
    """The gradient targets are made of the side outputs, which they therefore train."""
    cfg = config('multi_scale_supervision', loss_decode=dict(type='mmbirefnet.BCELoss', loss_weight=0.0))
    model = seeded(MODELS.build(cfg))
    losses = train_step(model)
    assert losses['decode.loss_gradient'] > 0
    for k in '432':
        block = model.decode_head.blocks[k]
        assert block.outward.gradient.weight.grad.any()
        assert block.side.weight.grad.any()
    # What only the final map depends on learns nothing here.
    assert not model.decode_head.blocks['2'].outward.attention.weight.grad.any()
    assert not model.decode_head.conv_logits.weight.grad.any()


def test_inward_reference_needs_the_image():
    model = stock_model(inward_reference=True)
    with pytest.raises(ValueError, match='the inward reference needs the image beside the four maps'):
        model(image(), mode='tensor')


def stock_model(**head) -> nn.Module:
    """In mmsegmentation's own segmentor, which has no image to hand on."""
    cfg = config(**{'inward_reference': False, **head})
    return seeded(
        MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=cfg['backbone'],
                decode_head=dict(cfg['decode_head'], in_channels=[16, 32, 64, 128]),
                test_cfg=ConfigDict(mode='whole'),
            )
        )
    )


def test_trains_in_a_stock_segmentor():
    model = stock_model(gradient_supervision=False)
    assert train_step(model).keys() == {'decode.loss_bce'}
    assert_every_parameter_trains(model)
    with torch.no_grad():
        model.eval()
        logits = model(image(), mode='tensor')
        assert logits.shape == (2, 1, 16, 24)  # without the image, at the size of the first map
        for sample, each in zip(model(image(), mode='predict'), logits):
            expected = resize(each[None], (64, 96))[0].sigmoid()
            torch.testing.assert_close(sample.seg_logits.data, expected)
            assert torch.equal(sample.pred_sem_seg.data, (expected > 0.5).float())


def test_image_beside_the_maps():
    """Heads that index maps see four, and the image changes what BiRefHead computes."""
    model = seeded(MODELS.build(config())).eval()
    x = image()
    with torch.no_grad():
        features = model.extract_feat(x)
        maps = model.neck(model.extract_backbone_feat(x))
        assert isinstance(features, tuple)
        assert len(features) == 4
        assert all(map(torch.equal, features, maps))
        assert torch.equal(features[-1], maps[3])
        assert features.image is x
        logits = model.decode_head(features)
        assert torch.equal(logits, model(x, mode='tensor'))
        assert torch.equal(logits, model.decode_head((*maps, x)))  # as before Features had a name
        other = model.decode_head(Features(maps, image(seed=1)))
    assert (logits - other).abs().max() > 1e-3


def test_gradient_supervision_without_the_image_warns():
    model = stock_model()
    with pytest.warns(UserWarning, match='set gradient_supervision=False'):
        losses = train_step(model)
    assert losses['decode.loss_gradient'] == 0
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ('backbone', 'channels'),
    [
        (dict(type='ResNet', depth=18, base_channels=16, norm_cfg=dict(type='BN')), [16, 32, 64, 128]),
        (
            dict(
                type='mmpretrain.ConvNeXt',
                arch=dict(depths=[1, 1, 1, 1], channels=[16, 24, 32, 40]),
                out_indices=(0, 1, 2, 3),
                gap_before_final_norm=False,
            ),
            [16, 24, 32, 40],
        ),
    ],
    ids=['resnet', 'convnext'],
)
@pytest.mark.parametrize('multi_scale_input', [True, False])
@pytest.mark.soak(keep=2)
def test_on_another_backbone(backbone, channels, multi_scale_input):
    channels = [c * (1 + multi_scale_input) for c in channels]
    cfg = config()
    cfg.update(backbone=backbone, multi_scale_input=multi_scale_input)
    cfg['neck']['in_channels'] = cfg['decode_head']['in_channels'] = channels
    model = seeded(MODELS.build(cfg))
    train_step(model)
    assert_every_parameter_trains(model)
    assert evaluate(model).shape == (2, 1, 64, 96)


def test_wrong_number_of_stages():
    with pytest.raises(ValueError, match=r'in_channels=\(8, 16, 32\) must name four stages'):
        BiRefHead((8, 16, 32))


def test_auxiliary_head_beside_it():
    auxiliary = dict(
        type='FCNHead',
        in_channels=CHANNELS[3],  # in_index=-1: the deepest map
        channels=8,
        num_convs=1,
        dropout_ratio=0,
        num_classes=2,
        out_channels=1,
        loss_decode=dict(type='mmbirefnet.BCELoss', loss_weight=0.4),
    )
    model = seeded(MODELS.build(dict(config(), auxiliary_head=auxiliary)))
    losses = train_step(model)
    assert losses['aux.loss_bce'] > 0
    assert_every_parameter_trains(model)
    x = image()
    with torch.no_grad():
        deepest = model.neck(model.extract_backbone_feat(x))[3]
        logits = F.interpolate(model.auxiliary_head((deepest,)), size=(64, 96), mode='bilinear')
        mask = torch.stack([sample.gt_sem_seg.data for sample in samples()])
        expected = 0.4 * F.binary_cross_entropy_with_logits(logits, mask)
    # The other loss has moved the running statistics only.
    torch.testing.assert_close(losses['aux.loss_bce'], expected, rtol=1e-4, atol=1e-5)


NORMS = {
    'BN': dict(type='BN'),
    'FrozenBN': dict(type='mmbirefnet.FrozenBN'),
    'GN': dict(type='GN', num_groups=8),
}


@pytest.mark.parametrize('norm_cfg', NORMS.values(), ids=NORMS)
def test_one_image_per_gpu_trains(norm_cfg):
    cfg = config(norm_cfg=norm_cfg)
    cfg['neck']['norm_cfg'] = norm_cfg
    model = seeded(MODELS.build(cfg))
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if 'norm' in name}
    train_step(model, n=1)
    assert_every_parameter_trains(model)
    moved = {name for name, buffer in model.named_buffers() if 'norm' in name and not torch.equal(buffer, before[name])}
    if norm_cfg['type'] == 'BN':
        assert {name for name in before if name.endswith('running_mean')} - moved == {
            # One value per channel has no statistics to learn from.
            name
            for name in before
            if name.endswith('pooled.norm.running_mean')
        }
    else:
        assert not moved


def test_sync_bn():
    cfg = config(norm_cfg=dict(type='SyncBN'))
    cfg['neck']['norm_cfg'] = dict(type='SyncBN')
    model = MODELS.build(cfg)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    # Five blocks of 2 + 6 norms, and three of the outward reference.
    assert len(norms) == 5 * 8 + 3
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    # They evaluate as BatchNorm does.
    cfg = config()
    reference = seeded(MODELS.build(cfg))
    model.load_state_dict(reference.state_dict(), strict=True)
    torch.testing.assert_close(evaluate(model), evaluate(reference))


def assert_uniform(values: Tensor, bound: float, name: str) -> None:
    """Drawn from all of [-bound, bound]."""
    assert 0.97 * bound < values.abs().max() <= bound, name
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


@pytest.mark.parametrize('inward_reference', [True, False])
def test_logits_start_as_one_convolution_would(inward_reference):
    """Both parts of the last 1x1 convolution are drawn as torch draws the whole, bias and all."""
    torch.manual_seed(0)
    options = dict(loss_decode=dict(type='CrossEntropyLoss'), num_classes=1000, inward_reference=inward_reference)
    for initialize in (nn.Module.eval, BiRefHead.init_weights):
        head = BiRefHead(CHANNELS, aspp_cfg=None, **options)
        initialize(head)
        parts = [head.conv_logits.weight, *([head.conv_logits_inward.weight] if inward_reference else [])]
        whole = nn.Conv2d(sum(part.shape[1] for part in parts), 1000, 1)
        assert whole.in_channels == 16 + 4 * inward_reference
        for ours, theirs in [*((part, whole.weight) for part in parts), (head.conv_logits.bias, whole.bias)]:
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
            assert_uniform(ours, whole.in_channels**-0.5, '')


def test_other_initial_values_are_those_of_torch():
    """Uniform with the bound of the inputs; offsets and masks start at zero, norms at the identity."""
    torch.manual_seed(0)
    model = MODELS.build(config())
    model.init_weights()
    seen = set()
    for part in (model.neck, model.decode_head):
        for name, module in part.named_modules():
            if 'conv_offset' in name:
                assert not module.weight.any(), name
                assert not module.bias.any(), name
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert (module.weight == 1).all(), name
                assert not module.bias.any(), name
            elif isinstance(module, (nn.Conv2d, nn.Linear, DCNv2)) and 'conv_logits' not in name:
                bound = module.weight[0].numel() ** -0.5
                for parameter in (module.weight, module.bias):
                    if parameter is not None and parameter.numel() > 2000:
                        assert_uniform(parameter, bound, name)
                    elif parameter is not None:
                        assert 0 < parameter.abs().max() <= bound, name
            else:
                continue
            seen.add(type(module))
    assert {nn.Conv2d, nn.Linear, nn.BatchNorm2d, DCNv2} <= seen


@pytest.mark.soak
def test_loss_in_evaluation():
    """All losses of training, with the norms' running statistics, which stay as they are."""
    model = seeded(MODELS.build(config()))
    train_step(model)  # moves the statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = model.eval()(image(), samples(), mode='loss')
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        expected = model(image(), samples(), mode='loss')
    assert found.keys() == expected.keys() == {'decode.loss_bce', 'decode.loss_gradient', 'neck.loss_cls'}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def cast(maps: BiRefOutput, dtype: torch.dtype) -> BiRefOutput:
    return BiRefOutput(maps.logits.to(dtype), *([each.to(dtype) for each in several] for several in maps[1:]))


def test_maps_are_resized_in_float32_under_autocast():
    targets, x = samples(16, 24), image(16, 24)
    half = cast(output(), torch.bfloat16)
    exact = cast(half, torch.float32)
    expected = head().loss_by_feat(exact, targets)
    expected_target = gradient_target(x, exact.side_logits[0])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = head().loss_by_feat(half, targets)
        target = gradient_target(x, half.side_logits[0])
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert target.dtype == torch.float32
    assert torch.equal(target, expected_target)


def test_gradient_supervision_in_float64():
    maps = cast(output(), torch.float64)
    loss = gradient_loss(maps.gradient_logits[0], gradient_target(image(16, 24).double(), maps.side_logits[0]))
    assert loss.dtype == torch.float64
