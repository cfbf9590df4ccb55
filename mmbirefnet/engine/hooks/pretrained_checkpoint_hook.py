"""Fine-tuning from checkpoints as they are released."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import HOOKS
from mmbirefnet.zoo.catalog import identify
from mmbirefnet.zoo.convert import convert_birefnet_state_dict, is_reference, strip_prefixes
from mmbirefnet.zoo.crop_order import AUTO, resolve_crop_order


@HOOKS.register_module()
class ReleasedCheckpointHook(Hook):
    """Makes sure that a model starts from a checkpoint, its own or one of the reference implementation.

    mmengine loads what fits and warns of the rest, so that a checkpoint of another form or size would leave the model
    untrained. Here parameters of the reference are converted, and those that do not fit are an error.

    Args:
        optional: Starts of the names that the checkpoint, or the model, may lack.
        crop_order: Order of the crops that a checkpoint of the reference implementation was trained with, see
            :func:`mmbirefnet.utils.convert_birefnet_state_dict`.

    Raises:
        ValueError: If training starts without a checkpoint, or if one does not fit.
    """

    def __init__(self, optional: tuple[str, ...] = ('neck.classifier.',), crop_order: str = AUTO) -> None:
        self.optional = tuple(optional)
        self.crop_order = crop_order
        self.loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Convert and check, before the parameters go into the model."""
        state = strip_prefixes(checkpoint.get('state_dict', checkpoint))
        model = _innermost(runner.model)
        try:
            if is_reference(state):
                runner.logger.info('ReleasedCheckpointHook: converting parameters of the reference implementation')
                info = identify(runner._load_from)
                expected = info.crop_order if info else None
                crop_order = resolve_crop_order(state, self.crop_order, expected, runner._load_from)
                state = convert_birefnet_state_dict(state, crop_order)
            if isinstance(model, BiRefNet):
                state = model.complete_state_dict(state)
            problems = misfit(state, model.state_dict(), self.optional)
            if problems:
                raise ValueError(f'the parameters do not fit the model: {problems}')
        except ValueError as error:
            raise ValueError(
                f'{runner._load_from}: {error}. Take the config of the architecture, which '
                'tools/model_converters/birefnet2mmbirefnet.py tells'
            ) from error
        # The runner goes on with this dict.
        if 'state_dict' not in checkpoint:
            checkpoint.clear()
        checkpoint['state_dict'] = state
        self.loaded = True

    def before_train(self, runner: Runner) -> None:
        """Refuse to train from scratch."""
        if not self.loaded:
            raise ValueError(
                'fine-tuning starts from a checkpoint: --cfg-options load_from=FILE (a released .pth or .safetensors, '
                'or one of your own)'
            )


def _innermost(model: nn.Module) -> nn.Module:
    while hasattr(model, 'module'):
        model = model.module
    return model
