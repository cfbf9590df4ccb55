"""Low-rank adapters (LoRA) for fine-tuning: injected with ``peft``, saved separately, and merged for inference."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.registry import MODELS

from .birefnet import BiRefNet

# The forward pass reads the kernels of these layers without calling them, so an adapter would have no effect.
_READ_DIRECTLY = ('aspp.merge.conv', 'shortcut', 'conv_logits', 'conv_logits_inward')
_ADAPTER = 'default'  # peft's name of the only adapter
_BASE = '.base_layer.'


@MODELS.register_module()
class LoRABiRefNet(BiRefNet):
    """BiRefNet with frozen weights and trained low-rank adapters (Hu et al., 2022).

    Adapters are added to every linear layer (attention and MLPs) and every 1x1 convolution larger than their rank:
    ``y = W x + alpha / rank * B A x``. B starts at zero, so training starts from the released model. Use it together
    with ``norm_cfg=dict(type='mmbirefnet.FrozenBN')``, so that training changes only the adapters.

    It loads state dicts of the plain model. :func:`merge_adapters` returns a state dict of the plain model.

    Args:
        rank: Rank of the adapters.
        alpha: Scale of the adapters is ``alpha / rank``.
        dropout: Probability of dropout before an adapter.
        **kwargs: Arguments of :class:`BiRefNet`.

    Raises:
        ImportError: If ``peft`` is not installed.
    """

    def __init__(self, *args, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError as error:
            raise ImportError(f'LoRABiRefNet needs peft ({error}). Fix: pip install "mmbirefnet[peft]"') from error
        self.lora_scale = alpha / rank
        layers = [name for name, module in self.named_modules() if _can_adapt(name, module, rank)]
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=layers)
        inject_adapter_in_model(config, self, _ADAPTER)
        self.register_load_state_dict_pre_hook(_load_plain)

    def init_weights(self) -> None:
        """Initialize the model, then reset the adapters, which initializers of linear layers change too."""
        super().init_weights()
        for module in self.modules():
            if hasattr(module, 'reset_lora_parameters'):
                module.reset_lora_parameters(_ADAPTER, True)

    def complete_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the plain model to the names of this model, and add the adapters of this model."""
        state_dict = copy.copy(state_dict)
        _load_plain(self, state_dict, '')
        return state_dict


def _can_adapt(name: str, module: nn.Module, rank: int) -> bool:
    if name.endswith(_READ_DIRECTLY):
        return False
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and min(module.weight.shape[:2]) > rank
    return isinstance(module, nn.Linear) and min(module.weight.shape) > rank


def _load_plain(model: LoRABiRefNet, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Rename the weights of the plain model in a state dict, and add missing adapters."""
    for name, value in model.state_dict().items():
        key = prefix + name
        plain = key.replace(_BASE, '.')
        if plain != key and plain in state_dict:
            state_dict[key] = state_dict.pop(plain)
        elif '.lora_' in name and key not in state_dict:
            state_dict[key] = value


def split_adapters(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict of :class:`LoRABiRefNet` into plain weights and adapters.

    Returns:
        The weights without adapters under the plain model's names, and ``<layer>.lora_A.weight`` and
        ``<layer>.lora_B.weight`` of each adapted layer.
    """
    plain = {key.replace(_BASE, '.'): value for key, value in state_dict.items() if '.lora_' not in key}
    adapters = {key.replace(f'.{_ADAPTER}.', '.'): value for key, value in state_dict.items() if '.lora_' in key}
    return plain, adapters


def merge_adapters(state_dict: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Add adapters to the weights of a plain model: ``W + scale * B A``.

    Args:
        state_dict: State dict of the plain model.
        adapters: As :func:`split_adapters` or :func:`read_adapters` returns them.
        scale: ``alpha / rank``.

    Raises:
        ValueError: If the model lacks the layer of an adapter, or the layer has another shape.
    """
    merged = copy.copy(state_dict)  # with its metadata
    for key in (key for key in adapters if key.endswith('.lora_A.weight')):
        layer = key.removesuffix('.lora_A.weight')
        down, up = adapters[key], adapters[f'{layer}.lora_B.weight']
        weight = merged.get(f'{layer}.weight')
        if weight is None or weight.shape != (up.shape[0], *down.shape[1:]):
            found = 'is missing' if weight is None else f'is {tuple(weight.shape)}'
            raise ValueError(
                f'the adapter of {layer} is for weights of {(up.shape[0], *down.shape[1:])}, but {layer}.weight '
                f'{found}. Fix: use the model that the adapters were trained on'
            )
        merged[f'{layer}.weight'] = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return merged


def write_adapters(path: str | os.PathLike, adapters: Mapping[str, Tensor], scale: float) -> None:
    """Write adapters to a ``.safetensors`` file with their scale in the metadata."""
    from safetensors.torch import save

    with replacing(path) as temporary:
        tensors = {key: value.detach().cpu().contiguous() for key, value in adapters.items()}
        temporary.write_bytes(save(tensors, {'scale': repr(scale)}))


def read_adapters(path: str | os.PathLike) -> tuple[dict[str, Tensor], float]:
    """Read adapters and their scale from a file of :func:`write_adapters`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not contain adapters.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        with safe_open(path, 'pt') as file:
            scale = float((file.metadata() or {})['scale'])
            names = file.keys()
            adapters = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f'{path}: not a file of adapters, as "mmbirefnet finetune --recipe lora" writes it') from error
    damaged = [key for key in adapters if not _is_whole(adapters, key)]
    if damaged or not math.isfinite(scale):
        what = f'{len(damaged)} adapters, such as {damaged[0]!r:.100}' if damaged else f'scale {scale}'
        raise ValueError(f'{path}: damaged ({what}). Fix: take another copy of the file')
    return adapters, scale


def _is_whole(adapters: Mapping[str, Tensor], key: str) -> bool:
    """Whether an adapter has both parts, with matching shapes and finite numbers."""
    layer = key.rpartition('.lora_')[0]
    down, up = (adapters.get(f'{layer}.lora_{part}.weight') for part in 'AB')
    return (
        key in (f'{layer}.lora_A.weight', f'{layer}.lora_B.weight')
        and down is not None
        and up is not None
        and min(down.ndim, up.ndim) >= 2
        and down.shape[0] == up[:1].numel()
        and all(value.is_floating_point() and bool(value.isfinite().all()) for value in (down, up))
    )


def load_adapters(model: BiRefNet, path: str | os.PathLike) -> None:
    """Merge the adapters of a file into a plain model, in place.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_adapters` and :func:`merge_adapters`.
    """
    state_dict = model.state_dict()
    merged = merge_adapters(state_dict, *read_adapters(path))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(merged[name])
