"""BiRefNet in PyTorch, behind the interface that the inferencer knows."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import mmbirefnet
from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.fileio.configs import read_config
from mmbirefnet.models import BiRefNet, GuidedBiRefNet
from mmbirefnet.models.normalization import get_normalization
from mmbirefnet.registry import MODELS
from mmbirefnet.zoo.architecture import check_fit, infer_model_config
from mmbirefnet.zoo.catalog import FOLDER_FILES, SIDE_RANGE, identify, suggest
from mmbirefnet.zoo.convert import load_birefnet
from mmbirefnet.zoo.crop_order import AUTO
from mmbirefnet.zoo.weights import DEFAULT_MODEL, find_weights

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
DEFAULT_SIZE = (1024, 1024)  # of most released models


class TorchBackend:
    """A model with its normalization: uint8 images in, probabilities out.

    Args:
        model: Config file or the name of one of this project's, a ``Config``, a model, or ``None`` to tell the
            architecture from the checkpoint.
        weights: Checkpoint of this project or a released one, a file or the name of a model, see
            :func:`mmbirefnet.zoo.download.fetch`; with a model it may be left out.
        device: For example ``'cuda:1'``; ``None`` for a GPU where there is one.
        dtype: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for automatic mixed precision; ``'auto'`` for
            bfloat16 on a CPU with AVX512-BF16, where it was measured to be faster, or AMX; float32 elsewhere.
        fuse: Whether to fuse the model (:func:`mmbirefnet.deploy.fuse`); the maps stay the same to rounding.
        crop_order: Order of the crops that a released checkpoint was trained with: ``'rows'``, ``'columns'`` or
            ``'auto'``, see :func:`mmbirefnet.utils.convert_birefnet_state_dict`.

    Attributes:
        input_size: (H, W) that the model was trained at: that of the config, or else of the checkpoint's meta or of the
            released model that the checkpoint is named after.
        side_range: For a model trained at dynamic size the range of its sides, otherwise ``None``.
        fixed_size: ``False``: every size in multiples of 32 will do.
        max_batch: ``None``: any number of images at once.
        name: What messages call it.
        takes_guide: Whether the model takes a coarse mask, see :class:`~mmbirefnet.models.GuidedBiRefNet`.

    Raises:
        FileNotFoundError, ValueError: The config or checkpoint is missing, they do not fit one another, or an option is
            wrong.
    """

    fixed_size = False
    max_batch = None

    def __init__(
        self,
        model=None,
        weights=None,
        device=None,
        dtype: str = 'float32',
        fuse: bool = True,
        crop_order: str = AUTO,
    ) -> None:
        if str(dtype).removeprefix('torch.') not in (*DTYPES, 'auto'):
            raise ValueError(f'dtype={dtype!r}, must be one of {", ".join(DTYPES)}, auto')
        self.device = _device(device)
        dtype = _fastest_dtype(self.device) if dtype == 'auto' else dtype
        self.dtype = DTYPES[str(dtype).removeprefix('torch.')]
        try:
            with self._autocast():
                pass
        except RuntimeError as error:
            where = f'on {self.device.type} with torch {torch.__version__}'
            raise ValueError(f'dtype={dtype!r} cannot be used {where}: {error}') from error
        if given := isinstance(model, nn.Module):
            self.name = type(model).__name__
            cfg = getattr(model, 'cfg', None)  # where mmseg's init_model leaves it
            if weights:
                _load_parameters(model, load_birefnet(weights, crop_order).state_dict, weights)
            size = (cfg and _test_size(cfg)) or DEFAULT_SIZE
        else:
            path = find_weights(weights, DEFAULT_MODEL if model is None else None)
            model, size = _load(model, path, crop_order)
            info = identify(path) if path.name in FOLDER_FILES else None
            self.name = info.name if info else path.name
        self.side_range = SIDE_RANGE if size == 'image' else None
        self.input_size = DEFAULT_SIZE if size == 'image' else size
        if getattr(model, 'out_channels', 1) != 1:
            raise ValueError(f'{self.name}: a model with one output channel is needed, not {model.out_channels}')
        if fuse and isinstance(model, BiRefNet):
            from mmbirefnet.deploy import fuse as fuse_model

            model = fuse_model(model, inplace=not given)
        self.takes_guide = isinstance(model, GuidedBiRefNet)
        self.model = model.to(self.device).eval()
        mean, std, order = get_normalization(model)
        self.swap = order == 'BGR'
        self.mean, self.std = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (mean, std))

    def _autocast(self):
        # Older torch minds float32 there, even where it is not enabled.
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict.

        Args:
            images: uint8 RGB ``(N, H, W, 3)``; H and W are multiples of 32. If it ``takes_guide``, the coarse mask may
                be a fourth channel.

        Returns:
            Probabilities, float32 ``(N, H, W)``.
        """
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        x, guide = x[:, :3], x[:, 3:]
        x = ((x.flip(1) if self.swap else x) - self.mean) / self.std
        if guide.shape[1]:
            x = torch.cat([x, guide / 127.5 - 1], 1)
        with self._autocast():
            logits = self.model(x, mode='tensor')
        probability = logits.float().sigmoid()
        if probability.shape[2:] != x.shape[2:]:  # heads that answer at a smaller size
            probability = F.interpolate(probability, x.shape[2:], mode='bilinear', align_corners=True)
        return probability[:, 0].cpu().numpy()


def find_config(model: str | os.PathLike) -> Path:
    """The file of a config given by its path or, for one of this project's, by its name.

    Raises:
        FileNotFoundError: There is none; the message lists close names.
    """
    path = Path(model)
    if path.is_file():
        return path
    package = Path(mmbirefnet.__file__).parent
    folders = (package / '.mim' / 'configs', package.parent / 'configs')
    known = {found.stem: found for folder in folders for found in folder.rglob('*.py') if '_base_' not in found.parts}
    name = path.name.removesuffix('.py')
    if name in known:
        return known[name]
    raise FileNotFoundError(
        f'{model}: no config file, nor the name of one of these: {", ".join(sorted(known))}; for a released model '
        f'{suggest(name)}'
    )


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves parameters as they are where ``torch.nn`` would fill them with random numbers."""

    functions = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.functions:
            return kwargs['tensor'] if 'tensor' in kwargs else args[0]
        return func(*args, **kwargs)


def _load(model, weights: Path, crop_order: str) -> tuple[nn.Module, tuple[int, int] | str]:
    """The model with its parameters, and the size to run it at: (H, W), or ``'image'`` for the image's own."""
    state_dict, meta, _ = load_birefnet(weights, crop_order)
    cfg = None
    if model is None:
        try:
            model = infer_model_config(state_dict)
            check_fit(state_dict, model)  # before there is memory for it: sizes that a file claims may be any
        except ValueError as error:
            raise ValueError(f'{weights}: {error}; name its config (--config, in Python model=…)') from error
    else:
        cfg = model if isinstance(model, Config) else read_config(find_config(model))
        if 'model' not in cfg:
            raise ValueError(f'{cfg.filename}: no model in this config')
        model = copy.deepcopy(cfg.model)  # the config stays as the caller has it
        model.get('backbone', {}).pop('init_cfg', None)  # would be downloaded, to be overwritten
    with DefaultScope.overwrite_default_scope('mmseg'), warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*build_loss')  # mmseg's own
        with _NoRandomNumbers():  # the checkpoint has all parameters
            model = MODELS.build(model)
    _load_parameters(model, state_dict, weights)
    return model, _choose_size(cfg, meta, weights)


def _choose_size(cfg: Config | None, meta: dict, weights: Path) -> tuple[int, int] | str:
    """Size to run a model at, (H, W) or ``'image'`` for the image's own; logged with its reason without a config."""
    configured = cfg and _test_size(cfg)
    size, name = meta.get('input_size'), meta.get('model_name')
    if size is None and (info := identify(weights, meta)):
        size, name = info.input_size, info.name
    size = size if size in (None, 'image') else tuple(size)
    if configured and size not in (None, configured):
        print_log(
            f'{weights}: the config tests at {_text(configured)}, the model was trained at {_text(size)}. Predictions '
            'are best near the size of the training: take its config, or give input_size (--size)',
            'current',
            logging.WARNING,
        )
    if configured:
        return configured
    if size is None:
        print_log(
            f'{weights}: input size: {_text(DEFAULT_SIZE)} is a guess: neither a config, nor the meta nor the name '
            'of the checkpoint gives the size of the training. Fix: give input_size (--size) or the config',
            'current',
            logging.WARNING,
        )
        return DEFAULT_SIZE
    reason = f'at which {name} was trained' if name else 'as in the meta of the checkpoint'
    print_log(f'{weights}: input size: {_text(size)}, {reason}', 'current')
    return size


def _text(size: tuple[int, int] | str) -> str:
    return "each image's own" if size == 'image' else f'{size[0]}x{size[1]} (height x width)'


def _load_parameters(model: nn.Module, state_dict: dict[str, Tensor], weights: str | os.PathLike) -> None:
    if isinstance(model, BiRefNet):
        state_dict = model.complete_state_dict(state_dict)
    if problems := misfit(state_dict, model.state_dict()):
        raise ValueError(f'{weights}: does not fit the model: {problems}')
    model.load_state_dict(state_dict)


def _test_size(cfg: Config) -> tuple[int, int] | str | None:
    """(H, W) of the test pipeline's resize; ``'image'``, the image's own, for a training at dynamic size."""
    sampler = cfg.get('train_dataloader', {}).get('batch_sampler') or {}
    if sampler.get('type', '').endswith('DynamicSizeBatchSampler'):
        return 'image'
    for step in cfg.get('test_pipeline', ()):
        if step['type'].endswith('Resize') and 'scale' in step:
            width, height = step['scale']
            return height, width
    return None


def _device(device) -> torch.device:
    try:
        device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first, *_ = str(error).splitlines()
        raise ValueError(f'device={str(device)!r} cannot be used: {first}') from error
    return device


def _fastest_dtype(device: torch.device) -> str:
    """``'bfloat16'`` for CPUs that multiply matrices in it; without such instructions it is slower than float32."""
    # Older torch does not report what the CPU has.
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    fast = device.type == 'cpu' and (found.get('avx512_bf16') or found.get('amx_bf16'))
    return 'bfloat16' if fast else 'float32'
