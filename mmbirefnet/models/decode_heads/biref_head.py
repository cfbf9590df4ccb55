"""Decoder of BiRefNet: the reconstruction module with bilateral reference (Zheng et al., 2024)."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from mmengine.model import BaseModule, ModuleDict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmbirefnet.registry import MODELS

from ..layers import (
    InwardReference,
    OutwardReference,
    ReconstructionBlock,
    checkpoint_module,
    gradient_loss,
    gradient_target,
    inward_logits,
    log_odds,
    resize,
    resize_float32,
)
from ..losses.base import MaskLoss
from ..losses.fit import check_losses

STRIDES = (4, 8, 16, 32)


class Features(tuple):
    """Feature maps of the backbone or neck, as a tuple, with the image as an attribute.

    Args:
        maps: Maps ``(N, Ci, H/s, W/s)`` of strides s = 4, 8, 16, 32.
        image: Normalized image ``(N, 3, H, W)``.
    """

    image: Tensor

    def __new__(cls, maps: Iterable[Tensor], image: Tensor) -> 'Features':
        features = super().__new__(cls, maps)
        features.image = image
        return features


def _image_of(inputs: tuple[Tensor, ...]) -> Tensor | None:
    """The image of :class:`Features`, or the fifth of plain inputs."""
    return getattr(inputs, 'image', inputs[4] if len(inputs) > 4 else None)


class BiRefOutput(NamedTuple):
    """Supervised maps of the head; lists are ordered from block 4 to block 2."""

    logits: Tensor  # (N, out_channels, H, W)
    side_logits: list[Tensor]  # (N, out_channels, H/s, W/s)
    gradient_logits: list[Tensor]  # (N, 1, H/s, W/s)
    gradient_targets: list[Tensor]  # (N, 1, H, W), logits


class BiRefBlock(BaseModule):
    """One stage of the decoder: inward reference, reconstruction block, outward reference.

    Args:
        in_channels: Channels of the incoming map.
        out_channels: Channels of the outgoing map.
        inward: Inward reference that is concatenated to the incoming map, or ``None``.
        inward_channels: Channels of the inward reference.
        outward: Outward reference that attends to the outgoing map, or ``None``.
        side_channels: Channels of the side output; 0 for none.
        block_cfg: Arguments of :class:`ReconstructionBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inward: InwardReference | None,
        inward_channels: int,
        outward: OutwardReference | None,
        side_channels: int,
        block_cfg: dict,
    ) -> None:
        super().__init__()
        self.inward = inward
        joined_channels = in_channels + (0 if inward is None else inward_channels)
        self.reconstruction = ReconstructionBlock(joined_channels, out_channels, **block_cfg)
        self.side = nn.Conv2d(out_channels, side_channels, 1) if side_channels else None
        self.outward = outward

    def forward(self, x: Tensor, image: Tensor | None, supervised: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Decode a map.

        Args:
            x: Incoming map, ``(N, in_channels, H, W)``.
            image: Normalized image, ``(N, 3, H', W')``; used by the inward reference.
            supervised: Whether to compute the maps that only training needs.

        Returns:
            Outgoing map ``(N, out_channels, H, W)`` and, if supervised, the side output ``(N, side_channels, H, W)``
            and the gradient logits ``(N, 1, H, W)``, else ``None``.
        """
        x = self.reconstruction(x, None if self.inward is None else self.inward(image, x.shape[2:]))
        side = self.side(x) if supervised and self.side is not None else None
        gradient = None
        if self.outward is not None:
            attention, gradient = self.outward(x, supervised)
            x = x * attention
        return x, side, gradient


@MODELS.register_module()
class BiRefHead(BaseDecodeHead):
    """Decode head of BiRefNet (Zheng et al., 2024): four BiRef blocks over the maps of any four-stage backbone.

    The output is one map of probabilities or, with ``num_classes`` above 2, a softmax over classes. Inward and outward
    reference are the same for both, with one attention for all classes. For the target of the gradient supervision
    with several classes, see :func:`~mmbirefnet.models.layers.log_odds`.

    The input is :class:`Features`, four maps of strides 4 to 32 with the normalized image, which
    :class:`~mmbirefnet.models.BiRefNet` passes. Without the inward reference, a plain tuple of four maps works too, as
    from mmseg's ``EncoderDecoder``, but the gradient supervision needs the image.

    Args:
        in_channels: Channels of the four maps, C1 to C4.
        inward_reference: Concatenate crops of the image to each stage (InRef).
        outward_reference: Multiply the maps of stages 4 to 2 by a gradient-aware attention (OutRef).
        multi_scale_supervision: Train the side outputs of stages 4 to 2 with the losses of the final map.
        gradient_supervision: Train the outward reference to predict the gradients of the image inside the object.
        image_channels: Channels of the image.
        inward_channels: Channels of the inward reference at full size and for blocks 1 to 4; by default an eighth of
            C1, C2, C3, C4 and C4.
        residual: Whether the reconstruction blocks are residual.
        aspp_cfg: Arguments of :class:`~mmbirefnet.models.layers.ASPP`; for plain convolutions
            ``dict(conv_cfg=None)``, for the dilated pyramid
            ``dict(conv_cfg=None, kernel_sizes=(1, 3, 3, 3), dilations=(1, 6, 12, 18))``.
        norm_cfg: Type of the norms.
        loss_decode: Losses of every supervised map, called as ``loss(logits, target)`` and summed over the maps. For
            one map, losses of mmbirefnet or mmseg; for several classes, losses of mmseg, such as ``CrossEntropyLoss``.
        loss_gradient_weight: Weight of the gradient supervision, which is summed over the stages.
        num_classes: As in mmseg: 2 with ``out_channels=1`` means one map of probabilities.
        out_channels: Channels of the logits; by default 1 for two classes, else one for each class.
        background: With several classes, the index of the background class, which the gradient supervision ignores;
            ``None`` if there is none, as in ADE20K and Cityscapes.
        threshold: Probability in [0, 1] above which a pixel belongs to the object.
        with_cp: Whether to use activation checkpointing, which computes blocks again in the backward pass.
        in_index: Indices of the four maps in the input.
        kwargs: Further arguments of mmseg's ``BaseDecodeHead``, but not ``sampler``.

    Raises:
        ValueError: If arguments contradict each other, or if a loss does not fit the number of channels.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int, int],
        inward_reference: bool = True,
        outward_reference: bool = True,
        multi_scale_supervision: bool = True,
        gradient_supervision: bool = True,
        image_channels: int = 3,
        inward_channels: tuple[int, int, int, int, int] | None = None,
        residual: bool = False,
        aspp_cfg: dict | None = dict(),
        norm_cfg: dict = dict(type='BN'),
        loss_decode: dict | list[dict] = dict(type='mmbirefnet.BCELoss'),
        loss_gradient_weight: float = 1.0,
        num_classes: int = 2,
        out_channels: int | None = None,
        background: int | None = None,
        threshold: float = 0.5,
        with_cp: bool = False,
        in_index: tuple[int, int, int, int] = (0, 1, 2, 3),
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        if len(in_channels) != 4:
            raise ValueError(f'BiRefHead: in_channels={tuple(in_channels)} must name four stages, strides 4, 8, 16, 32')
        c1, c2, c3, c4 = in_channels
        inward_full, *inward = inward_channels or (c1 // 8, c2 // 8, c3 // 8, c4 // 8, c4 // 8)
        if len(inward) != 4:
            raise ValueError(f'BiRefHead: inward_channels={tuple(inward_channels)} must be five numbers')
        if out_channels is None:
            out_channels = 1 if num_classes == 2 else num_classes
        if out_channels == 1 and num_classes > 2:
            raise ValueError(f'BiRefHead: num_classes={num_classes} needs out_channels={num_classes} or None, not 1')
        if kwargs.get('sampler') is not None:
            raise ValueError(
                'BiRefHead: sampler= selects pixels by their class scores, which the losses of soft masks do not have. '
                'Fix: leave it out'
            )
        if num_classes < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f'BiRefHead: num_classes={num_classes} must be 1 or more, threshold={threshold} a probability in [0, 1]'
            )
        if background is not None and not 0 <= background < num_classes:
            raise ValueError(f'BiRefHead: background={background} is not an index of num_classes={num_classes}')
        super().__init__(
            in_channels=list(in_channels),
            channels=c1 // 2,
            num_classes=num_classes,
            out_channels=out_channels,
            threshold=threshold,
            dropout_ratio=0,
            norm_cfg=norm_cfg,
            in_index=list(in_index),
            input_transform='multiple_select',
            loss_decode=[loss_decode] if isinstance(loss_decode, dict) else list(loss_decode or ()),
            align_corners=True,
            init_cfg=init_cfg,
            **kwargs,
        )
        # The classifier of BaseDecodeHead is not used; its parameters would have no gradient.
        del self.conv_seg
        check_losses(self.loss_decode, out_channels)
        self.background = background
        self.with_cp = with_cp
        self.inward_reference = inward_reference
        self.multi_scale_supervision = multi_scale_supervision
        self.gradient_supervision = outward_reference and gradient_supervision
        self.loss_gradient_weight = loss_gradient_weight

        # The gradient targets need side outputs, even if these are not supervised.
        side_channels = out_channels if multi_scale_supervision or self.gradient_supervision else 0
        block_cfg = dict(residual=residual, aspp_cfg=aspp_cfg, norm_cfg=norm_cfg)
        incoming, outgoing = (c1, c2, c3, c4), (c1 // 2, c1, c2, c3)
        self.blocks = ModuleDict()
        for k in (4, 3, 2, 1):
            self.blocks[str(k)] = BiRefBlock(
                incoming[k - 1],
                outgoing[k - 1],
                InwardReference(STRIDES[k - 1], inward[k - 1], image_channels=image_channels)
                if inward_reference
                else None,
                inward[k - 1],
                OutwardReference(outgoing[k - 1], predict_gradient=self.gradient_supervision, norm_cfg=norm_cfg)
                if outward_reference and k > 1
                else None,
                side_channels if k > 1 else 0,
                block_cfg,
            )
        self.laterals = ModuleDict({str(k): nn.Conv2d(outgoing[k - 1], outgoing[k - 1], 1) for k in (4, 3, 2)})
        # The final 1x1 convolution has two parts: that of the last block commutes with the resize to full size.
        self.conv_logits = nn.Conv2d(c1 // 2, out_channels, 1)
        if inward_reference:
            self.inward = InwardReference(1, inward_full, image_channels=image_channels)
            self.conv_logits_inward = nn.Conv2d(inward_full, out_channels, 1, bias=False)
            # The initialization bound of nn.Conv2d depends on its own inputs; both parts need the bound of all inputs.
            bound = (c1 // 2 + inward_full) ** -0.5
            for parameter in (*self.conv_logits.parameters(), *self.conv_logits_inward.parameters()):
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor | BiRefOutput:
        """Decode the maps of an image.

        Args:
            inputs: :class:`Features`, or a plain tuple of the four maps, optionally followed by the image.

        Returns:
            In evaluation mode, the logits ``(N, out_channels, H, W)``; in training mode, all supervised maps. Without
            the image, the logits have the size of the first map.

        Raises:
            ValueError: If the inward reference is on and there is no image.
        """
        output = self.decode(self._transform_inputs(inputs), _image_of(inputs), self.training)
        return output if self.training else output.logits

    def loss(self, inputs: tuple[Tensor, ...], batch_data_samples: SampleList, train_cfg: dict | None = None) -> dict:
        """Losses of all supervised maps, also in evaluation mode; see :meth:`loss_by_feat`."""
        output = self.decode(self._transform_inputs(inputs), _image_of(inputs), supervised=True)
        return self.loss_by_feat(output, batch_data_samples)

    def decode(self, maps: list[Tensor], image: Tensor | None = None, supervised: bool = False) -> BiRefOutput:
        """Decode a list of four maps, which it empties, so that memory of maps without other references is freed.

        Args:
            maps: Maps ``(N, Ci, H/s, W/s)`` of strides s = 4, 8, 16, 32.
            image: Normalized image, ``(N, 3, H, W)``; the inward reference needs it.
            supervised: Whether to compute the side outputs, gradient predictions and their targets.

        Raises:
            ValueError: If the inward reference is on and there is no image.
        """
        if self.inward_reference and image is None:
            raise ValueError(
                'BiRefHead: the inward reference needs the image beside the four maps. Fix: use the segmentor '
                'mmbirefnet.BiRefNet, or set inward_reference=False'
            )
        x = maps.pop()
        sides, gradients = [], []
        for k in (4, 3, 2):
            x, side, gradient = self._run_block(k, x, image, supervised)
            sides.append(side)
            gradients.append(gradient)
            lateral = self.laterals[str(k)](maps.pop())
            lateral += resize(x, lateral.shape[2:])
            x = lateral
        x, _, _ = self._run_block(1, x, image, supervised)
        logits = self.conv_logits(x)
        if image is not None:
            logits = resize(logits, image.shape[2:])
        if self.inward_reference:
            logits = logits + inward_logits(self.inward, self.conv_logits_inward, image)
        sides, gradients = ([each for each in maps if each is not None] for maps in (sides, gradients))
        targets = []
        if gradients and image is not None:
            targets = [gradient_target(image, log_odds(side, self.background)) for side in sides]
        return BiRefOutput(logits, sides, gradients, targets)

    def _run_block(
        self, k: int, x: Tensor, image: Tensor | None, supervised: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        block = self.blocks[str(k)]
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint_module(block, x, image, supervised)
        return block(x, image, supervised)

    def loss_by_feat(self, output: BiRefOutput, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Compute the losses, each summed over the supervised maps, and the loss of the gradient predictions.

        The maps are resized to the masks in float32 at least, also under autocast.

        Args:
            output: Output of :meth:`forward` in training mode.
            batch_data_samples: Samples whose ``gt_sem_seg`` is the mask in [0, 1] or class indices, ``(1, H, W)``.

        Returns:
            Losses by name, scalars.
        """
        target = self._stack_batch_gt(batch_data_samples)
        sides = output.side_logits if self.multi_scale_supervision else []
        maps = [resize_float32(logits, target.shape[2:]) for logits in (*sides, output.logits)]
        losses = {}
        for loss in self.loss_decode:
            if isinstance(loss, MaskLoss):
                value = loss(maps, target, ignore_index=self.ignore_index)
            else:  # losses of mmseg expect masks (N, H, W)
                value = sum(loss(logits, target.squeeze(1), ignore_index=self.ignore_index) for logits in maps)
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        if self.gradient_supervision:
            losses['loss_gradient'] = self.loss_gradient_weight * self._gradient_loss(output)
        return losses

    def _gradient_loss(self, output: BiRefOutput) -> Tensor:
        if not output.gradient_targets:
            warnings.warn(
                'BiRefHead: the gradient supervision needs the image; set gradient_supervision=False',
                stacklevel=2,
            )
            # Zero, but connected to the parameters, since distributed training requires that all of them are used.
            return 0 * sum(logits.sum() for logits in (*output.gradient_logits, *output.side_logits))
        return sum(map(gradient_loss, output.gradient_logits, output.gradient_targets))
