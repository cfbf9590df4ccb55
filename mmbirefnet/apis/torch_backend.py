"""Run models in PyTorch."""

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
from mmbirefnet.apis.cuda_graph import GraphedForward
from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.fileio.configs import read_config
from mmbirefnet.models import BiRefNet, GuidedBiRefNet
from mmbirefnet.models.layers.dcn.backends import has_bfloat16_instructions
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
    """A PyTorch model with its normalization: uint8 images in, probabilities out.

    Args:
        model: Config file, name of a config of this project, ``Config``, model, or ``None`` to infer the architecture
            from the checkpoint.
        weights: Checkpoint, of this project or released: a file or the name of a model, see
            :func:`mmbirefnet.zoo.download.fetch`. Optional if ``model`` is a model.
        device: For example ``'cuda:1'``; ``None`` for a GPU if there is one, otherwise the CPU.
        dtype: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for automatic mixed precision. ``'auto'`` is bfloat16
            on a CPU with AVX512-BF16 (where it was measured to be faster) or AMX, and float32 elsewhere.
        fuse: Whether to fuse layers (:func:`mmbirefnet.deploy.fuse`). Predictions are equal up to rounding.
        crop_order: Order of the crops that a released checkpoint was trained with: ``'rows'``, ``'columns'`` or
            ``'auto'``, see :func:`mmbirefnet.utils.convert_birefnet_state_dict`.
        cuda_graph: Whether to replay a CUDA graph where batches of one shape repeat (BiRefNet on CUDA only). Hooks of
            modules then run only until it is captured.

    Attributes:
        input_size: (H, W) in pixels that the model was trained at: from the config, otherwise from the metadata of the
            checkpoint or from the released model of that name.
        side_range: Range of the sides of a model trained at dynamic size, in pixels; otherwise ``None``.
        fixed_size: ``False``: the model accepts every size in multiples of 32.
        max_batch: ``None``: no limit.
        name: Name in messages.
        takes_guide: Whether the model accepts a coarse mask, see :class:`~mmbirefnet.models.GuidedBiRefNet`.

    Raises:
        FileNotFoundError: If the config or checkpoint does not exist.
        ValueError: If config and checkpoint do not fit, or an option is invalid.
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
        cuda_graph: bool = True,
    ) -> None:
        if str(dtype).removeprefix('torch.') not in (*DTYPES, 'auto'):
            raise ValueError(f'dtype={dtype!r}, must be one of {", ".join(DTYPES)}, auto')
        self.device = _device(device)
        if dtype == 'auto':
            dtype = 'bfloat16' if has_bfloat16_instructions(self.device) else 'float32'
        self.dtype = DTYPES[str(dtype).removeprefix('torch.')]
        try:
            with self._autocast():
                pass
        except RuntimeError as error:
            where = f'on {self.device.type} with torch {torch.__version__}'
            raise ValueError(f'dtype={dtype!r} cannot be used {where}: {error}') from error
        if given := isinstance(model, nn.Module):
            self.name = type(model).__name__
            cfg = getattr(model, 'cfg', None)  # set by mmseg's init_model
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
            raise ValueError(f'{self.name}: has {model.out_channels} output channels, expected 1')
        if fuse and isinstance(model, BiRefNet):
            from mmbirefnet.deploy import fuse as fuse_model

            model = fuse_model(model, not given, None if self.dtype == torch.float32 else self.dtype)
        self.takes_guide = isinstance(model, GuidedBiRefNet)
        self.model = model.to(self.device).eval()
        # Other models may have control flow that depends on values, which a graph cannot capture.
        graphed = cuda_graph and self.device.type == 'cuda' and isinstance(model, BiRefNet)
        self._forward = GraphedForward(self._logits) if graphed else self._logits
        mean, std, order = get_normalization(model)
        self.swap = order == 'BGR'
        self.mean, self.std = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (mean, std))

    def _autocast(self):
        # Older versions of torch reject float32 in autocast, even with enabled=False.
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        with self._autocast():
            return self.model(x, mode='tensor')

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict.

        Args:
            images: uint8 RGB ``(N, H, W, 3)``; H and W are multiples of 32. With ``takes_guide``, the coarse mask
                may be a fourth channel.

        Returns:
            Probabilities, float32 ``(N, H, W)``.
        """
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        x, guide = x[:, :3], x[:, 3:]
        x = ((x.flip(1) if self.swap else x) - self.mean) / self.std
        if guide.shape[1]:
            x = torch.cat([x, guide / 127.5 - 1], 1)
        probability = self._forward(x).float().sigmoid()
        if probability.shape[2:] != x.shape[2:]:  # some heads predict at a smaller size
            probability = F.interpolate(probability, x.shape[2:], mode='bilinear', align_corners=True)
        return probability[:, 0].cpu().numpy()


def find_config(model: str | os.PathLike) -> Path:
    """Find a config file by its path, or a config of this project by its name.

    Raises:
        FileNotFoundError: If there is none. The message lists the known names.
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
        f'{model}: neither a config file nor the name of a config ({", ".join(sorted(known))}). If you mean a released '
        f'model: {suggest(name)}'
    )


class _NoRandomNumbers(TorchFunctionMode):
    """Skips the random initialization of ``torch.nn``."""

    functions = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.functions:
            return kwargs['tensor'] if 'tensor' in kwargs else args[0]
        return func(*args, **kwargs)


def _load(model, weights: Path, crop_order: str) -> tuple[nn.Module, tuple[int, int] | str]:
    """Return the model with its parameters, and its input size: (H, W), or ``'image'`` for the size of each image."""
    state_dict, meta, _ = load_birefnet(weights, crop_order)
    cfg = None
    if model is None:
        try:
            model = infer_model_config(state_dict)
            check_fit(state_dict, model)  # before memory is allocated: a forged file may declare any size
        except ValueError as error:
            raise ValueError(f'{weights}: {error}. Fix: name its config (--config, in Python model=…)') from error
    else:
        cfg = model if isinstance(model, Config) else read_config(find_config(model))
        if 'model' not in cfg:
            raise ValueError(f'{cfg.filename}: this config has no model')
        model = copy.deepcopy(cfg.model)  # do not change the config of the caller
        model.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has these weights already
    with DefaultScope.overwrite_default_scope('mmseg'), warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*build_loss')  # of mmseg
        with _NoRandomNumbers():  # the checkpoint has all parameters
            model = MODELS.build(model)
    _load_parameters(model, state_dict, weights)
    return model, _choose_size(cfg, meta, weights)


def _choose_size(cfg: Config | None, meta: dict, weights: Path) -> tuple[int, int] | str:
    """Return the input size of a model, (H, W) or ``'image'``; without a config, log it and its source."""
    configured = cfg and _test_size(cfg)
    size, name = meta.get('input_size'), meta.get('model_name')
    if size is None and (info := identify(weights, meta)):
        size, name = info.input_size, info.name
    size = size if size in (None, 'image') else tuple(size)
    if configured and size not in (None, configured):
        print_log(
            f'{weights}: the config tests at {_text(configured)}, the model was trained at {_text(size)}. Predictions '
            'are best near the training size. Fix: use its config, or set input_size (--size)',
            'current',
            logging.WARNING,
        )
    if configured:
        return configured
    if size is None:
        print_log(
            f'{weights}: input size: {_text(DEFAULT_SIZE)} is a guess: neither a config nor the metadata or '
            'name of the checkpoint gives the training size. Fix: set input_size (--size), or give the config',
            'current',
            logging.WARNING,
        )
        return DEFAULT_SIZE
    reason = f'the training size of {name}' if name else 'from the metadata of the checkpoint'
    print_log(f'{weights}: input size: {_text(size)}, {reason}', 'current')
    return size


def _text(size: tuple[int, int] | str) -> str:
    return 'the size of each image' if size == 'image' else f'{size[0]}x{size[1]} (height x width)'


def _load_parameters(model: nn.Module, state_dict: dict[str, Tensor], weights: str | os.PathLike) -> None:
    if isinstance(model, BiRefNet):
        state_dict = model.complete_state_dict(state_dict)
    if problems := misfit(state_dict, model.state_dict()):
        raise ValueError(f'{weights}: does not fit the model: {problems}')
    model.load_state_dict(state_dict)


def _test_size(cfg: Config) -> tuple[int, int] | str | None:
    """(H, W) of the resize in the test pipeline; ``'image'`` for configs with dynamic size."""
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
