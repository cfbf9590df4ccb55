"""The reference's network, computed from its own parameters without a module of this project.

Its backbones are torchvision's and timm's, as there, and PVTv2, written here from its parameters.
"""

from collections import OrderedDict
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
import torchvision
from golden import draw, reference_shapes
from torch import Tensor, nn

Maps = Callable[[Tensor], list[Tensor]]
DINOV3 = {
    's': ('small', (3, 5, 7, 11)),
    'splus': ('small_plus', (3, 5, 7, 11)),
    'b': ('base', (3, 5, 7, 11)),
    'l': ('large', (5, 11, 17, 23)),
    'hplus': ('huge_plus', (7, 15, 23, 31)),
    '7b': ('7b', (9, 19, 29, 39)),
}
PVTV2 = {  # channels, depths, MLP ratios
    'b0': ((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    'b1': ((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    'b2': ((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    'b5': ((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}


def resize(x: Tensor, size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


class Sequences(nn.Sequential):
    """The four stages of a network of torchvision."""

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps


def torchvision_backbone(name: str) -> Sequences:
    """VGG16 and ResNet-50 as the reference cuts them up."""
    if name == 'r50':
        layers = list(torchvision.models.resnet50().children())
        stages = [nn.Sequential(*layers[:5]), *layers[5:8]]
    else:
        layers = {'vgg16': torchvision.models.vgg16, 'vgg16-bn': torchvision.models.vgg16_bn}[name]().features
        ends = {'vgg16': (10, 17, 24, 31), 'vgg16-bn': (14, 24, 34, 44)}[name]
        stages = [layers[start:end] for start, end in zip((0, *ends), ends)]
    return Sequences(OrderedDict((f'conv{i}', stage) for i, stage in enumerate(stages, 1)))


def dinov3_backbone(name: str) -> nn.Module:
    model, out_indices = DINOV3[name]
    return timm.create_model(f'vit_{model}_patch16_dinov3', features_only=True, out_indices=out_indices)


def pvtv2_shapes(name: str) -> dict[str, tuple[int, ...]]:
    shapes = {}

    def layer(key: str, *weight: int) -> None:
        shapes[f'{key}.weight'] = weight
        shapes[f'{key}.bias'] = weight[:1]

    before = 3
    for k, (dims, depth, ratio, reduction) in enumerate(zip(*PVTV2[name], (8, 4, 2, 1)), 1):
        kernel = 7 if k == 1 else 3
        layer(f'patch_embed{k}.proj', dims, before, kernel, kernel)
        layer(f'patch_embed{k}.norm', dims)
        for block in (f'block{k}.{i}' for i in range(depth)):
            layer(f'{block}.norm1', dims)
            layer(f'{block}.attn.q', dims, dims)
            layer(f'{block}.attn.kv', 2 * dims, dims)
            layer(f'{block}.attn.proj', dims, dims)
            if reduction > 1:
                layer(f'{block}.attn.sr', dims, dims, reduction, reduction)
                layer(f'{block}.attn.norm', dims)
            layer(f'{block}.norm2', dims)
            layer(f'{block}.mlp.fc1', ratio * dims, dims)
            layer(f'{block}.mlp.dwconv.dwconv', ratio * dims, 1, 3, 3)
            layer(f'{block}.mlp.fc2', dims, ratio * dims)
        layer(f'norm{k}', dims)
        before = dims
    return shapes


def pvtv2_maps(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """PVTv2 (Wang et al., 2022) from its parameters."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f'{name}.weight'], state[f'{name}.bias'])

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'], eps)

    def conv(x: Tensor, name: str, **options) -> Tensor:
        """On maps with the channels last."""
        return F.conv2d(x.movedim(-1, 1), state[f'{name}.weight'], state[f'{name}.bias'], **options).movedim(1, -1)

    def attend(x: Tensor, name: str, heads: int) -> Tensor:
        source = x
        if f'{name}.sr.weight' in state:
            source = norm(conv(x, f'{name}.sr', stride=state[f'{name}.sr.weight'].shape[-1]), f'{name}.norm', 1e-5)
        q = linear(x, f'{name}.q').flatten(1, 2).unflatten(-1, (heads, -1))
        k, v = linear(source, f'{name}.kv').flatten(1, 2).unflatten(-1, (2, heads, -1)).unbind(2)
        weights = (torch.einsum('nqhc,nkhc->nhqk', q, k) * q.shape[-1] ** -0.5).softmax(-1)
        return linear(torch.einsum('nhqk,nkhc->nqhc', weights, v).flatten(2).view_as(x), f'{name}.proj')

    maps = []
    x = x.movedim(1, -1)
    for k, heads in enumerate((1, 2, 5, 8), 1):
        kernel, stride = (7, 4) if k == 1 else (3, 2)
        x = norm(conv(x, f'patch_embed{k}.proj', stride=stride, padding=kernel // 2), f'patch_embed{k}.norm', 1e-5)
        for i in range(sum(key.startswith(f'block{k}.') and key.endswith('.norm1.bias') for key in state)):
            block = f'block{k}.{i}'
            x = x + attend(norm(x, f'{block}.norm1', 1e-6), f'{block}.attn', heads)
            y = linear(norm(x, f'{block}.norm2', 1e-6), f'{block}.mlp.fc1')
            y = conv(y, f'{block}.mlp.dwconv.dwconv', padding=1, groups=y.shape[-1])
            x = x + linear(F.gelu(y), f'{block}.mlp.fc2')
        x = norm(x, f'norm{k}', 1e-6)
        maps.append(x.movedim(-1, 1))
    return maps


def decoder_shapes(maps: tuple[int, ...], pyramid: bool = False) -> dict[str, tuple[tuple[int, ...], str]]:
    """Parameters behind a backbone whose maps have these channels at both scales together."""
    shapes = {key: value for key, value in reference_shapes().items() if not key.startswith('bb.')}
    c1, c2, c3, c4 = channels = (384, 768, 1536, 3072) if pyramid else maps
    m1, m2, m3, m4 = (c // 8 for c in maps)
    blocks = {  # channels that go in and come out
        'squeeze_module.0': (sum(maps), maps[3]),
        'decoder.decoder_block4': (c4 + m4, c3),
        'decoder.decoder_block3': (c3 + m4, c2),
        'decoder.decoder_block2': (c2 + m3, c1),
        'decoder.decoder_block1': (c1 + m2, c1 // 2),
    }
    changed = {'cls_head.0.weight': (219, maps[3]), 'decoder.conv_out1.0.weight': (1, c1 // 2 + m1, 1, 1)}
    for block, (before, after) in blocks.items():
        changed[f'{block}.conv_in.weight'] = (64, before, 3, 3)
        changed[f'{block}.conv_out.weight'] = (after, 64, 3, 3)
        changed |= {key: (after,) for key in shapes if key.startswith((f'{block}.conv_out.b', f'{block}.bn_out.'))}
        changed[f'{block}.bn_out.num_batches_tracked'] = ()
    for k, c in zip((4, 3, 2), (c3, c2, c1)):
        changed[f'decoder.lateral_block{k}.conv.weight'] = (c, c, 1, 1)
        changed[f'decoder.lateral_block{k}.conv.bias'] = (c,)
        changed[f'decoder.conv_ms_spvn_{k}.weight'] = (1, c, 1, 1)
        changed[f'decoder.gdt_convs_{k}.0.weight'] = (16, c, 3, 3)
    for k, width in zip((5, 4, 3, 2, 1), (m4, m4, m3, m2, m1)):
        changed[f'decoder.ipt_blk{k}.conv_out.weight'] = (width, 64, 3, 3)
        changed[f'decoder.ipt_blk{k}.conv_out.bias'] = (width,)
    if pyramid:
        for k in (1, 2, 3, 4):
            changed[f'decoder.pyramid_neck_x{k}.conv.weight'] = (channels[k - 1], maps[k - 1], 1, 1)
            changed[f'decoder.pyramid_neck_x{k}.conv.bias'] = channels[k - 1 : k]
    return shapes | {key: (shape, shapes.get(key, (None, 'float32'))[1]) for key, shape in changed.items()}


class Decoder:
    """Everything behind the backbone, in evaluation."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f'{name}.weight']
        return F.conv2d(x, weight, self.state.get(f'{name}.bias'), padding=weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.state[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def deform(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f'{name}.regular_conv.weight']
        mask = 2 * self.conv(x, f'{name}.modulator_conv').sigmoid()
        offset = self.conv(x, f'{name}.offset_conv')
        return torchvision.ops.deform_conv2d(x, offset, weight, padding=weight.shape[-1] // 2, mask=mask)

    def aspp(self, x: Tensor, name: str) -> Tensor:
        branches = []
        for branch in ('aspp1', 'aspp_deforms.0', 'aspp_deforms.1', 'aspp_deforms.2'):
            y = self.deform(x, f'{name}.{branch}.atrous_conv')
            branches.append(self.norm(y, f'{name}.{branch}.bn').relu())
        pooled = self.conv(x.mean((2, 3), keepdim=True), f'{name}.global_avg_pool.1')
        pooled = self.norm(pooled, f'{name}.global_avg_pool.2').relu()
        x = torch.cat([*branches, pooled.expand(-1, -1, *x.shape[2:])], 1)
        return self.norm(self.conv(x, f'{name}.conv1'), f'{name}.bn1').relu()

    def block(self, x: Tensor, name: str) -> Tensor:
        x = self.norm(self.conv(x, f'{name}.conv_in'), f'{name}.bn_in').relu()
        return self.norm(self.conv(self.aspp(x, f'{name}.dec_att'), f'{name}.conv_out'), f'{name}.bn_out')

    def inward(self, image: Tensor, size, k: int) -> Tensor:
        grid = [whole // part for whole, part in zip(image.shape[2:], size)]
        patches = image.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))  # N, 3, rows, h, columns, w
        patches = patches.permute(0, 1, 2, 4, 3, 5).flatten(1, 3)
        name = f'decoder.ipt_blk{k}'
        return self.conv(self.conv(resize(patches, size), f'{name}.conv1'), f'{name}.conv_out')

    def __call__(self, maps: list[Tensor], image: Tensor) -> Tensor:
        *shallow, deep = maps
        deep = torch.cat([*(resize(x, deep.shape[2:]) for x in shallow), deep], 1)
        maps = [*shallow, self.block(deep, 'squeeze_module.0')]
        if 'decoder.pyramid_neck_x1.conv.weight' in self.state:
            sizes = [[side // stride for side in image.shape[2:]] for stride in (4, 8, 16, 32)]
            maps = [
                self.conv(resize(x, size), f'decoder.pyramid_neck_x{k}.conv')
                for k, (x, size) in enumerate(zip(maps, sizes), 1)
            ]
        x = maps[3]
        for k in (4, 3, 2):
            x = torch.cat([x, self.inward(image, x.shape[2:], k + 1)], 1)
            x = self.block(x, f'decoder.decoder_block{k}')
            gradient = self.norm(self.conv(x, f'decoder.gdt_convs_{k}.0'), f'decoder.gdt_convs_{k}.1').relu()
            x = x * self.conv(gradient, f'decoder.gdt_convs_attn_{k}.0').sigmoid()
            x = resize(x, maps[k - 2].shape[2:]) + self.conv(maps[k - 2], f'decoder.lateral_block{k}.conv')
        x = self.block(torch.cat([x, self.inward(image, x.shape[2:], 2)], 1), 'decoder.decoder_block1')
        x = resize(x, image.shape[2:])
        return self.conv(torch.cat([x, self.inward(image, x.shape[2:], 1)], 1), 'decoder.conv_out1.0')


def both_scales(backbone: Maps, image: Tensor) -> list[Tensor]:
    half = backbone(resize(image, [side // 2 for side in image.shape[2:]]))
    return [torch.cat([x, resize(y, x.shape[2:])], 1) for x, y in zip(backbone(image), half)]


def build(name: str) -> tuple[dict[str, tuple[tuple[int, ...], str]], Callable[[dict], Maps]]:
    """Shapes of the parameters of the reference with a backbone other than Swin; what makes a backbone of its own."""
    family, _, size = name.partition('-')
    if family == 'pvtv2':
        shapes, channels = pvtv2_shapes(size), PVTV2[size][0]
        shapes = {key: (shape, 'float32') for key, shape in shapes.items()}

        def load(state: dict[str, Tensor]) -> Maps:
            return lambda image: pvtv2_maps(state, image)
    else:
        network = dinov3_backbone(size) if family == 'dinov3' else torchvision_backbone(name)
        shapes = {key: (tuple(v.shape), str(v.dtype).split('.')[1]) for key, v in network.state_dict().items()}
        channels = {
            'dinov3': lambda: network.feature_info.channels(),
            'r50': lambda: (256, 512, 1024, 2048),
            'vgg16': lambda: (128, 256, 512, 512),
        }[family]()

        def load(state: dict[str, Tensor]) -> Maps:
            network.load_state_dict(state)
            return network.eval()

    shapes = {f'bb.{key}': value for key, value in shapes.items()}
    return shapes | decoder_shapes(tuple(2 * c for c in channels), pyramid=family == 'dinov3'), load


def draw_all(shapes: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, Tensor]:
    return {key: draw(key, *value) for key, value in shapes.items()}


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
