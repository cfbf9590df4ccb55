"""Swin Transformer: the reference has the names of the published checkpoints, as does this project."""

from mmbirefnet.models.backbones.swin import ARCHITECTURES
from mmbirefnet.models.backbones.swin_checkpoint import BUFFERS
from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes, choose, count


def _rename(key: str) -> str | None:
    return None if key.endswith(BUFFERS) else key


def _infer(shapes: Shapes) -> BackboneSpec | None:
    dims, *_ = shapes.get('patch_embed.proj.weight', (None,))
    pairs, *_ = shapes.get('layers.0.blocks.0.attn.relative_position_bias_table', (None,))
    if dims is None or pairs is None:
        return None
    depths = tuple(count(shapes, f'layers.{i}.blocks.') for i in range(4))
    found = dict(embed_dims=dims, depths=depths, window_size=(round(pairs**0.5) + 1) // 2)
    arch = choose('Swin Transformer', ARCHITECTURES, found)
    config = dict(type='mmbirefnet.SwinTransformer', arch=arch)
    return BackboneSpec(f'swin-{arch}', config, tuple(dims * 2**i for i in range(4)))


SWIN = BackboneFamily('Swin Transformer', 'patch_embed.proj.weight', _rename, _infer)
