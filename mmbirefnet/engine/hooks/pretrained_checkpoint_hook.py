"""Start fine-tuning from a pretrained checkpoint, also one of the reference implementation."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import HOOKS
from mmbirefnet.zoo.catalog import identify
from mmbirefnet.zoo.convert import convert_birefnet_state_dict, is_reference, recognize, strip_prefixes
from mmbirefnet.zoo.crop_order import AUTO
from mmbirefnet.zoo.download import fetch, is_model_name


@HOOKS.register_module()
class PretrainedCheckpointHook(Hook):
    """Requires a checkpoint that fits the model, and converts those of the reference implementation.

    mmengine loads the parameters that fit and only warns about the others, so a checkpoint of another architecture
    would leave the model untrained. This hook raises an error instead.

    Args:
        optional: Prefixes of parameters that the checkpoint, or the model, may lack.
        crop_order: Order of the crops that a checkpoint of the reference implementation was trained with, see
            :func:`mmbirefnet.utils.convert_birefnet_state_dict`.

    Raises:
        ValueError: If training starts without a checkpoint, or if the checkpoint does not fit the model.
    """

    def __init__(self, optional: tuple[str, ...] = ('neck.classifier.',), crop_order: str = AUTO) -> None:
        self.optional = tuple(optional)
        self.crop_order = crop_order
        self.loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Convert and check the parameters before mmengine loads them into the model."""
        state = strip_prefixes(checkpoint.get('state_dict', checkpoint))
        model = _innermost(runner.model)
        try:
            if is_reference(state):
                runner.logger.info('PretrainedCheckpointHook: converting parameters of the reference implementation')
                source = str(runner._load_from)
                file = fetch(source) if is_model_name(source) or Path(source).is_dir() else Path(source)
                facts = recognize(identify(source), file, state, self.crop_order)
                state = convert_birefnet_state_dict(state, facts['crop_order'])
            if isinstance(model, BiRefNet):
                state = model.complete_state_dict(state)
            problems = misfit(state, model.state_dict(), self.optional)
            if problems:
                raise ValueError(f'the parameters do not fit the model: {problems}')
        except ValueError as error:
            raise ValueError(
                f'{runner._load_from}: {error}. Fix: use the config of its architecture, which '
                'tools/model_converters/birefnet2mmbirefnet.py prints'
            ) from error
        # The runner loads its parameters from this dict.
        if 'state_dict' not in checkpoint:
            checkpoint.clear()
        checkpoint['state_dict'] = state
        self.loaded = True

    def before_train(self, runner: Runner) -> None:
        """Refuse to train from scratch."""
        if not self.loaded:
            raise ValueError(
                'fine-tuning needs a checkpoint. Fix: --cfg-options load_from=FILE (a released .pth or .safetensors '
                'file, or one of your own)'
            )


def _innermost(model: nn.Module) -> nn.Module:
    while hasattr(model, 'module'):
        model = model.module
    return model
