"""Swin Transformer: the reference has the names of the published checkpoints, as does this project."""

from mmbirefnet.models.backbones.swin import ARCHITECTURES
from mmbirefnet.models.backbones.swin_checkpoint import BUFFERS
from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes, choose, count


def _rename(key: str) -> str | None:
    return None if key.endswith(BUFFERS) else key


def _restore(key: str) -> str:
    return key


def _infer(shapes: Shapes) -> BackboneSpec | None:
    dims, *_ = shapes.get('patch_embed.proj.weight', (None,))
    pairs, *_ = shapes.get('layers.0.blocks.0.attn.relative_position_bias_table', (None,))
    if dims is None or pairs is None:
        return None
    depths = tuple(count(shapes, f'layers.{i}.blocks.') for i in range(4))
    found = dict(embed_dims=dims, depths=depths, window_size=(round(pairs**0.5) + 1) // 2)
    name = _choose(found)
    arch = name if ARCHITECTURES[name]['depths'] == depths else dict(ARCHITECTURES[name], depths=depths)
    config = dict(type='mmbirefnet.SwinTransformer', arch=arch)
    return BackboneSpec(f'swin-{name}', config, tuple(dims * 2**i for i in range(4)))


def _choose(found: dict) -> str:
    """Name of the architecture of this width and window with the closest depths.

    Other depths occur, such as 24 blocks in the third stage of FeyNobg. Blocks come in pairs, without and with a shift
    of the windows, so that an odd depth means that one is missing.
    """
    fitting = [
        name
        for name, known in ARCHITECTURES.items()
        if all(known[option] == found[option] for option in ('embed_dims', 'window_size'))
    ]
    if not fitting or any(depth == 0 or depth % 2 for depth in found['depths']):
        return choose('Swin Transformer', ARCHITECTURES, found)
    return min(fitting, key=lambda name: abs(sum(ARCHITECTURES[name]['depths']) - sum(found['depths'])))


SWIN = BackboneFamily('Swin Transformer', 'patch_embed.proj.weight', _rename, _restore, _infer)
