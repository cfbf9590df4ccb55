"""Reading Swin checkpoints: the published ImageNet ones, mmseg's conversions of them, and our own."""

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
    """Name and layout of the published checkpoints for a parameter in mmseg's form."""
    for theirs, published in MMSEG_NAMES:
        key = key.replace(theirs, published)
    if 'downsample.' in key:
        # mmseg unfolds 2x2 neighbors channel-major and row by row; the published order is by column, then row.
        value = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
    return key, value


def swin_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """Extract the parameters of a Swin backbone from a checkpoint, under the published names.

    Args:
        checkpoint: ``{'model': …}``, ``{'state_dict': …}`` or a plain state dict; prefixes ``module.``,
            ``backbone.`` and ``bb.`` are stripped, and other parts of a larger model are ignored.

    Returns:
        Parameters only; the classifier and derived buffers are dropped.
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
    """Load a pretrained Swin, and check that it fits this backbone.

    The LayerNorms of the outputs (``norm0`` …) and the weights of a coarse mask are not part of classification
    checkpoints and may be absent.

    Raises:
        ValueError: If a parameter is missing, unexpected or of another shape; the message names the file and the
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
            'Choose the `arch` that the file was made for.'
        )
    with torch.no_grad():
        backbone.load_state_dict(found, strict=False)
