"""Backbones of timm that return four maps, such as PVTv2 and DINOv3."""

import torch
from torch import Tensor

from mmbirefnet.registry import MODELS
from mmbirefnet.utils.deferred_import import deferred_import

with deferred_import('timm'):  # imported late: timm imports torchvision, which takes as long as torch
    from mmseg.models.backbones import TIMMBackbone as _TIMMBackbone


@MODELS.register_module()
class TIMMBackbone(_TIMMBackbone):
    """Backbone of timm that returns four maps, by mmseg's wrapper.

    Pretrained weights are loaded when training starts, so building a model needs no network and works on the meta
    device.

    Args:
        model_name: Name in timm, such as ``pvt_v2_b2`` or ``vit_base_patch16_dinov3`` (timm 1.0.22 or newer).
        out_indices: Four stages, or blocks of a plain transformer, whose maps are returned.
        pretrained: Whether :meth:`init_weights` loads timm's weights of this model.
        frozen: Whether to freeze all parameters and keep the backbone in evaluation mode.
        with_cp: Whether to use activation checkpointing, which computes blocks again in the backward pass.
        kwargs: Further arguments of mmseg's wrapper and of ``timm.create_model``.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If the installed timm has no ``model_name``, or ``out_indices`` does not have four entries.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: tuple[int, int, int, int] = (0, 1, 2, 3),
        pretrained: bool = False,
        frozen: bool = False,
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f'TIMMBackbone: model_name={model_name!r} needs the package timm. Fix: '
                'pip install timm (or "mmbirefnet[optional]")'
            ) from error
        if not timm.is_model(model_name):
            raise ValueError(
                f'TIMMBackbone: timm {timm.__version__} has no model {model_name!r}; timm.list_models() names those it '
                'has, pip install -U timm brings newer ones'
            )
        if len(out_indices) != 4:
            raise ValueError(f'TIMMBackbone: out_indices={tuple(out_indices)} must name four maps')
        self._arguments = dict(model_name=model_name, out_indices=tuple(out_indices), **kwargs)
        super().__init__(pretrained=False, **self._arguments)
        self.pretrained = pretrained
        self.frozen = frozen
        if with_cp:
            # DINOv3 is wrapped as `model`, PVTv2 is a list of stages.
            getattr(self.timm_model, 'model', self.timm_model).set_grad_checkpointing()
        self.requires_grad_(not frozen)

    def init_weights(self) -> None:
        """Load timm's pretrained weights if ``pretrained``, else apply ``init_cfg``."""
        if not self.pretrained:
            super().init_weights()
            return
        self.load_state_dict(_TIMMBackbone(pretrained=True, **self._arguments).state_dict())
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return four maps ``(N, Ci, H / si, W / si)`` of an image ``(N, 3, H, W)``, where si are the strides."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return tuple(super().forward(x))

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        return super().train(mode and not self.frozen)
