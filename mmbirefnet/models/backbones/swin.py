"""Swin Transformer (Liu et al., ICCV 2021) with fused attention and the parameter names of the published weights."""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmbirefnet.models.layers.activation_checkpointing import checkpoint_module, recompute
from mmbirefnet.registry import MODELS

from ..layers.compiling import is_compiling
from .swin_checkpoint import load_swin_checkpoint

ARCHITECTURES = {
    't': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7),
    's': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), window_size=7),
    'b': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12),
    'l': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=12),
}


# Chunk size for CPU inference: keeps activations in cache and bounds peak memory.
PART_BYTES = 8 * 2**20


def in_parts(x: Tensor, values: int, dim: int) -> tuple[Tensor, ...]:
    """Split ``x`` along ``dim`` into chunks of about ``PART_BYTES``, if a slice of size 1 produces ``values`` numbers.

    ``x`` is not split if gradients are needed, on other devices, and in traced graphs, which must work for any size.
    """
    whole = torch.is_grad_enabled() or is_compiling() or torch.jit.is_tracing()
    if whole or x.device.type != 'cpu':
        return (x,)
    return x.split(max(1, PART_BYTES // (values * x.element_size())), dim)


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for each (query, key) pair of a window, ``(window_size**2, window_size**2)``."""
    grid = torch.arange(window_size)
    coords = torch.stack(torch.meshgrid(grid, grid, indexing='ij')).flatten(1)
    offset = coords[:, :, None] - coords[:, None, :] + window_size - 1
    return offset[0] * (2 * window_size - 1) + offset[1]


def shift_masks(window_size: int, shift: int) -> Tensor:
    """Additive attention masks of cyclically shifted windows, ``(2, 2, window_size**2, window_size**2)``.

    Only windows in the last row or column contain pixels from opposite borders of the map, and all of them are split
    in the same way. The first two axes, ``[row, column]``, are 1 for a window in the last row and in the last column.
    """
    wrapped = torch.arange(window_size) >= window_size - shift
    inside = torch.zeros_like(wrapped)
    masks = []
    for rows in (inside, wrapped):
        for cols in (inside, wrapped):
            region = (2 * rows[:, None] + cols[None, :]).flatten()
            masks.append(torch.zeros(len(region), len(region)).masked_fill(region[:, None] != region, float('-inf')))
    return torch.stack(masks).unflatten(0, (2, 2))


class WindowAttention(BaseModule):
    """Multi-head self-attention inside (shifted) windows with a relative position bias (Eq. 4 of Liu et al., 2021).

    Args:
        dims: Channels C.
        num_heads: Heads; divides ``dims``.
        window_size: Side of a window in pixels of the map.
        shift: Cyclic shift of the window grid; 0 for none.
        qkv_bias: Whether the query, key and value projections have a bias.
        attn_drop: Dropout probability of the attention weights.
        proj_drop: Dropout probability of the output.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        window_size: int,
        shift: int = 0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dims, 3 * dims, bias=qkv_bias)
        self.proj = nn.Linear(dims, dims)
        self.proj_drop = nn.Dropout(proj_drop)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer('relative_position_index', relative_position_index(window_size), persistent=False)
        if shift:
            self.register_buffer('shift_masks', shift_masks(window_size, shift), persistent=False)
        self.register_buffer('fixed_biases', None, persistent=False)

    def fix_biases(self) -> None:
        """Compute the biases once, for inference; later changes of the table have no effect."""
        self.fixed_biases = self.biases().detach()

    def biases(self) -> Tensor:
        """Additive biases, ``(num_heads, L, L)``, L = window_size**2; of shifted windows ``(4, num_heads, L, L)``.

        The first axis is the row and column of :func:`shift_masks`, flattened.
        """
        if self.fixed_biases is not None:
            return self.fixed_biases
        bias = self.position_bias()
        return bias + self.shift_masks.flatten(0, 1).unsqueeze(1) if self.shift else bias

    def position_bias(self) -> Tensor:
        """Relative position bias, ``(num_heads, window_size**2, window_size**2)``."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Attend within windows of ``norm(x)``; ``x`` and the result are ``(N, H, W, C)``."""
        height, width = x.shape[1:3]
        if self.training:

            def attend(x: Tensor) -> Tensor:
                return self._attend_windows(self.qkv(self._windows(norm(x))), True)

            x = recompute(self, attend, x, random=self.attn_drop > 0 or self.proj_drop.p > 0)
        else:
            x = self._windows(norm(x))
            *bands, last = in_parts(x, 3 * x[:, 0].numel(), 1)
            bands = [self._attend_windows(self.qkv(band), False) for band in bands]
            bands.append(self._attend_windows(self.qkv(last), True))
            x = torch.cat(bands, 1) if len(bands) > 1 else bands[0]
        size = self.window_size
        x = x.unflatten(3, (size, size)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _windows(self, x: Tensor) -> Tensor:
        """Pad, shift and split ``(N, H, W, C)`` into windows of L pixels, ``(N, rows, cols, L, C)``."""
        size = self.window_size
        x = F.pad(x, (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(3, 4)

    def _attend_windows(self, qkv: Tensor, last: bool) -> Tensor:
        """Attend in rows of windows (or the last row), ``(N, rows, cols, L, 3C)`` to ``(N, rows, cols, L, C)``."""
        return self.proj_drop(self.proj(self._attend_by_mask(qkv, last)))

    def _attend_by_mask(self, qkv: Tensor, last: bool) -> Tensor:
        biases = self.biases().to(qkv.dtype)
        if not self.shift:
            return self._attend(qkv, biases)
        rows, cols = qkv.shape[1:3]
        plain_rows = rows - 1 if last else rows
        # Group windows that share a mask, so that no mask of all windows is allocated.
        return torch.cat(
            [
                torch.cat(
                    [
                        self._attend(part, biases[2 * last_row + last_col])
                        for last_col, part in enumerate(band.split((cols - 1, 1), 2))
                        if part.shape[2]
                    ],
                    2,
                )
                for last_row, band in enumerate(qkv.split((plain_rows, rows - plain_rows), 1))
                if band.shape[1]
            ],
            1,
        )

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Scaled dot-product attention, ``(N, rows, cols, L, 3C)`` to ``(N, rows, cols, L, C)``."""
        windows = qkv.shape[:3]
        q, k, v = qkv.flatten(0, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias[None], dropout_p=self.attn_drop if self.training else 0.0
        )
        return x.transpose(1, 2).flatten(2).unflatten(0, windows)


class Mlp(BaseModule):
    """Pre-norm MLP: ``norm`` (passed in), Linear, GELU, Linear over the channel axis."""

    def __init__(self, dims: int, hidden_dims: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, dims)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        def project(x: Tensor) -> Tensor:
            return self.drop(self.fc2(self.drop(self.act(self.fc1(norm(x))))))

        return recompute(self, project, x, random=self.drop.p > 0)


class SwinBlock(BaseModule):
    """Window attention and an MLP, both pre-normalized and residual (Eq. 3 of Liu et al., 2021)."""

    def __init__(
        self, dims: int, num_heads: int, window_size: int, shift: int, mlp_ratio: float, drop_path: float, **attn
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims)
        self.attn = WindowAttention(dims, num_heads, window_size, shift, **attn)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dims)
        self.mlp = Mlp(dims, int(dims * mlp_ratio), attn.get('proj_drop', 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` to ``(N, H, W, C)``."""
        x = x + self.drop_path(self.attn(x, self.norm1))
        if self.training or torch.is_grad_enabled():
            return x + self.drop_path(self.mlp(x, self.norm2))
        pixels = x.view(-1, x.shape[-1])
        for part in in_parts(pixels, self.mlp.fc1.out_features, 0):
            part += self.mlp(part, self.norm2)
        return x


class PatchMerging(BaseModule):
    """Concatenate 2x2 neighbors and project 4C channels to 2C at half the size; odd sizes are padded at the end."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dims)
        self.reduction = nn.Linear(4 * dims, 2 * dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` to ``(N, ceil(H/2), ceil(W/2), 2C)``."""
        return recompute(self, self._merge, x)

    def _merge(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # The published weights expect the neighbors column by column.
        x = torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], -1)
        return self.reduction(self.norm(x))


class PatchEmbed(BaseModule):
    """Non-overlapping patches, linearly embedded and normalized."""

    def __init__(self, in_channels: int, dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dims, patch_size, patch_size)
        self.norm = nn.LayerNorm(dims)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, ceil(H/4), ceil(W/4), C)``."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinStage(BaseModule):
    """Blocks with regular and shifted windows alternating, then patch merging unless it is the last stage."""

    def __init__(self, blocks: list, downsample: BaseModule | None) -> None:
        super().__init__()
        self.blocks = ModuleList(blocks)
        self.downsample = downsample


@MODELS.register_module()
class SwinTransformer(BaseModule):
    """Swin Transformer backbone (Liu et al., ICCV 2021).

    Attention uses ``torch.nn.functional.scaled_dot_product_attention``. The masks of shifted windows are computed once,
    for all sizes. Parameters have the names of the published ImageNet checkpoints.

    Args:
        arch: 't', 's', 'b' or 'l', or a dict with ``embed_dims``, ``depths``, ``num_heads`` and ``window_size``.
        in_channels: Channels of the image.
        patch_size: Side of a patch in pixels.
        mlp_ratio: Hidden width of the MLPs over their input width.
        qkv_bias: Whether query, key and value projections have a bias.
        drop_rate: Dropout probability of projections and MLPs.
        attn_drop_rate: Dropout probability of the attention weights.
        drop_path_rate: Rate of stochastic depth, which grows linearly from 0 at the first block to this at the last.
        out_indices: Stages whose outputs are returned, each through its own LayerNorm.
        frozen_stages: Freeze the patch embedding (0) and this many stages; -1 for none.
        with_cp: Whether to use activation checkpointing, which computes blocks again in the backward pass.
        init_cfg: ``dict(type='Pretrained', checkpoint=…)`` with a published checkpoint (``{'model': …}``), one in
            mmseg's format, or one of this project. It must fit the architecture.

    Raises:
        ValueError: If ``arch`` is unknown, or a pretrained checkpoint does not fit.
    """

    def __init__(
        self,
        arch: str | dict = 't',
        in_channels: int = 3,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if isinstance(arch, str):
            if arch not in ARCHITECTURES:
                raise ValueError(f'SwinTransformer: arch={arch!r} is unknown; use one of {sorted(ARCHITECTURES)}')
            arch = ARCHITECTURES[arch]
        depths = arch['depths']
        self.num_features = [arch['embed_dims'] * 2**i for i in range(len(depths))]
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.patch_embed = PatchEmbed(in_channels, arch['embed_dims'], patch_size)
        self.pos_drop = nn.Dropout(drop_rate)

        window_size = arch['window_size']
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(list(depths))
        self.layers = ModuleList()
        for i, (dims, num_heads) in enumerate(zip(self.num_features, arch['num_heads'])):
            blocks = [
                SwinBlock(
                    dims,
                    num_heads,
                    window_size,
                    shift=window_size // 2 if j % 2 else 0,
                    mlp_ratio=mlp_ratio,
                    drop_path=float(drop_path),
                    qkv_bias=qkv_bias,
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                )
                for j, drop_path in enumerate(drop_paths[i])
            ]
            self.layers.append(SwinStage(blocks, PatchMerging(dims) if i < len(depths) - 1 else None))
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(self.num_features[i]))
        self._freeze()

    def init_weights(self) -> None:
        """Initialize linear weights and position biases with a standard deviation of 0.02, then apply ``init_cfg``."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                trunc_normal_(module.relative_position_bias_table, std=0.02)
        if isinstance(self.init_cfg, dict) and self.init_cfg['type'] == 'Pretrained':
            load_swin_checkpoint(self, self.init_cfg['checkpoint'])
            self._is_init = True
        else:
            super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of an image.

        Args:
            x: Image, ``(N, 3, H, W)``.

        Returns:
            One map per stage of ``out_indices``, ``(N, C * 2**i, H / (4 * 2**i), W / (4 * 2**i))``, rounded up.
        """
        x = self.pos_drop(self.patch_embed(x))
        outputs = []
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                checkpointed = self.with_cp and torch.is_grad_enabled()
                x = checkpoint_module(block, x) if checkpointed else block(x)
            if i in self.out_indices:
                outputs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'SwinTransformer':
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        frozen = [self.patch_embed, self.pos_drop] if self.frozen_stages >= 0 else []
        for i in range(self.frozen_stages):
            frozen.append(self.layers[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.eval().requires_grad_(False)
