"""Backends of the deformable convolution by name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType

import mmcv.ops
import torch
from mmengine.logging import print_log
from packaging.version import Version
from torch import Tensor

from mmbirefnet.models.layers.dcn import torch_backend as deform_conv_torch

LOWEST_TRITON = '3.0'
BACKENDS = ('auto', 'mmcv', 'torch', 'triton')


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Whether a small convolution runs in Triton, which needs a recent GPU and a C compiler; logs why not."""
    try:
        x = torch.zeros(1, 16, 4, 4, device=device)
        offset, mask, weight = x.new_zeros(1, 2, 4, 4), x.new_ones(1, 1, 4, 4), x.new_zeros(16, 16, 1, 1)
        with torch.no_grad():
            load_backend('triton')(x, offset, mask, weight)
    except Exception as error:  # Triton, its compiler and the driver raise errors of many types
        first = next(iter(str(error).splitlines()), type(error).__name__)
        print_log(f"Triton does not run on {device}, so DCNv2 uses mmcv's kernel: {first}", 'current', logging.WARNING)
        return False
    return True


def has_bfloat16_instructions(device: torch.device) -> bool:
    """Whether a device is a CPU with instructions for bfloat16 products (AVX512-BF16 or AMX), as reported by torch."""
    # Older versions of torch do not report the capabilities of the CPU.
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return device.type == 'cpu' and bool(found.get('avx512_bf16') or found.get('amx_bf16'))


def select_backend(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Resolve the name of a backend for maps on a device.

    ``'auto'`` is torch on the CPU and for float64; on CUDA it is Triton, or mmcv where Triton does not run. In float64,
    mmcv's kernel rounds positions to float32, and reads behind the map for those just below its height or width.

    Raises:
        ValueError: If there is no backend of that name.
    """
    if name not in BACKENDS:
        raise ValueError(f'backend must be one of {", ".join(map(repr, BACKENDS))}, got {name!r}')
    if name != 'auto':
        return name
    if device.type != 'cuda' or dtype == torch.float64:
        return 'torch'
    return 'triton' if _triton_works(device) else 'mmcv'


def load_backend(name: str) -> Callable[..., Tensor]:
    """Load ``modulated_deform_conv2d`` of a backend.

    Raises:
        ImportError: If the backend is ``'triton'`` and Triton is missing or too old.
    """
    return mmcv.ops.modulated_deform_conv2d if name == 'mmcv' else _load_module(name).modulated_deform_conv2d


def load_gradients(name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """Load ``gradients`` of a backend; those of mmcv's kernel need autograd, so ``'mmcv'`` gets those of ``'torch'``.

    Raises:
        ImportError: As for :func:`load_backend`.
    """
    return _load_module('torch' if name == 'mmcv' else name).gradients


def _load_module(name: str) -> ModuleType:
    if name == 'torch':
        return deform_conv_torch
    try:
        import triton

        if Version(triton.__version__) < Version(LOWEST_TRITON):
            raise ImportError(f'{triton.__version__} is installed, {LOWEST_TRITON} or newer is needed')
        from mmbirefnet.models.layers.dcn import triton_backend as deform_conv_triton
    except ImportError as error:
        raise ImportError(
            f"backend 'triton' needs the triton package, part of torch's CUDA builds for Linux ({error}). "
            "Fix: use backend='auto' or 'mmcv'"
        ) from error
    return deform_conv_triton
