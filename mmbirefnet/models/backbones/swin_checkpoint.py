"""Reading Swin checkpoints: published ImageNet weights, mmseg's conversions of them, and those of this project."""

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmbirefnet.fileio.checkpoints import misfit

# Parts of a classification checkpoint that dense prediction does not use, and buffers that are recomputed.
UNUSED = ('head.', 'norm.', 'avgpool.')
BUFFERS = ('relative_position_index', 'attn_mask')

MMSEG_NAMES = (
    ('stages.', 'layers.'),
    ('attn.w_msa.', 'attn.'),
    ('ffn.layers.0.0.', 'mlp.fc1.'),
    ('ffn.layers.1.', 'mlp.fc2.'),
    ('patch_embed.projection.', 'patch_embed.proj.'),
)


def _from_mmseg(key: str, value: Tensor) -> tuple[str, Tensor]:
    """Convert name and layout of a parameter from mmseg's format to that of the published checkpoints."""
    for theirs, published in MMSEG_NAMES:
        key = key.replace(theirs, published)
    if 'downsample.' in key:
        # mmseg unfolds 2x2 neighbors by channel and row; the published order is by column, then row.
        value = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
    return key, value


def swin_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """Extract the parameters of a Swin backbone from a checkpoint, under the published names.

    Args:
        checkpoint: ``{'model': …}``, ``{'state_dict': …}`` or a plain state dict; prefixes ``module.``,
            ``backbone.`` and ``bb.`` are stripped, and other parts of a larger model are ignored.

    Returns:
        The parameters, without classifier and derived buffers.
    """
    state = checkpoint.get('model', checkpoint.get('state_dict', checkpoint))
    state = {key.removeprefix('module.'): value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in ('backbone.', 'bb.'):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if any(key.startswith('stages.') for key in state):
        state = dict(_from_mmseg(key, value) for key, value in state.items())
    return {key: value for key, value in state.items() if not key.startswith(UNUSED) and not key.endswith(BUFFERS)}


def load_swin_checkpoint(backbone: nn.Module, filename: str) -> None:
    """Load a pretrained Swin, and check that it fits the backbone.

    The LayerNorms of the outputs (``norm0`` …) and the weights of a coarse mask may be missing, since classification
    checkpoints do not have them.

    Raises:
        ValueError: If a parameter is missing, unexpected, or has another shape; the message gives the file and the
            differences.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location='cpu')
    found = swin_state_dict(checkpoint)
    optional = ('patch_embed.proj.mask_weight', *(f'norm{i}.' for i in range(len(backbone.layers))))
    problems = misfit(found, backbone.state_dict(), optional)
    if problems:
        raise ValueError(
            f'{filename} does not fit this SwinTransformer (width {backbone.num_features[0]}, depths '
            f'{[len(stage.blocks) for stage in backbone.layers]}, window '
            f'{backbone.layers[0].blocks[0].attn.window_size}): {problems}. '
            'Fix: use the `arch` of the file.'
        )
    with torch.no_grad():
        backbone.load_state_dict(found, strict=False)
