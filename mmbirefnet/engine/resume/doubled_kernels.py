"""Resume trainings of versions whose deformable kernels were twice those of the reference implementation."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.optim import OptimWrapperDict
from mmengine.runner import FlexibleRunner, Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmbirefnet.fileio.checkpoints import DCN_VERSION
from mmbirefnet.models import DCNv2

# State of torch's optimizers that scales with the gradient, and the power of the scale.
_POWERS = dict(exp_avg=1, momentum_buffer=1, exp_avg_sq=2, max_exp_avg_sq=2, square_avg=2)
_UNSCALED = ('step',)


def rescale_gradients(runner: Runner, model: nn.Module, checkpoint: dict) -> None:
    """Rescale gradients and moments of the deformable kernels that :class:`~mmbirefnet.models.DCNv2` divides on load.

    The layer divides kernels of an older version by its ``mask_scale``. Their gradients are ``mask_scale`` times as
    large then, so first moments and accumulated gradients are multiplied by ``mask_scale``, second moments by its
    square.

    Args:
        runner: Runner that resumes, whose optimizer is built but not loaded.
        model: Its model without wrappers.
        checkpoint: Checkpoint to resume from, with ``optimizer`` and ``accumulated_gradients``; changed in place.
    """
    versions = getattr(checkpoint['state_dict'], '_metadata', {})
    kernels = {
        f'{name}.weight': layer
        for name, layer in model.named_modules()
        if isinstance(layer, DCNv2)
        and layer.mask_scale != 1
        and versions.get(name, {}).get('version', DCN_VERSION) < DCN_VERSION
    }
    if not kernels:
        return
    gradients = checkpoint.get('accumulated_gradients', {})
    for name, layer in kernels.items():
        if name in gradients:
            gradients[name] = gradients[name] * layer.mask_scale
    scales = {layer.weight: layer.mask_scale for layer in kernels.values()}
    unknown = set()
    for optimizer, saved in _optimizers(runner, checkpoint.get('optimizer', {})):
        for parameter, state in _states(optimizer, saved):
            if parameter not in scales:
                continue
            for key, value in state.items():
                if key in _POWERS and isinstance(value, Tensor):
                    state[key] = value * scales[parameter] ** _POWERS[key]
                elif key not in _UNSCALED and value is not None:
                    unknown.add(key)
    runner.logger.info(
        f'the checkpoint is from a version that doubled {len(kernels)} deformable kernels: the kernels and their '
        'optimizer state were rescaled. From here on, they train at the rate of the reference'
    )
    if unknown:
        runner.logger.warning(
            f'the optimizer keeps {", ".join(sorted(unknown))} of these kernels, which was not rescaled: their '
            'next steps are larger or smaller'
        )


def warn_unscaled(runner: FlexibleRunner, checkpoint: dict) -> None:
    """Log a warning if :func:`rescale_gradients` would be needed, for runners whose optimizer state is sharded.

    Args:
        runner: Runner that resumes.
        checkpoint: Checkpoint to resume from.
    """
    versions = getattr(checkpoint['state_dict'], '_metadata', {})
    if any(
        isinstance(layer, DCNv2)
        and layer.mask_scale != 1
        and versions.get(name, {}).get('version', DCN_VERSION) < DCN_VERSION
        for name, layer in runner.model.named_modules()
    ):
        runner.logger.warning(
            'the checkpoint is from a version that doubled the deformable kernels. The kernels are converted, but '
            'their moments in the optimizer are not, since it is sharded: the first steps of these kernels are larger. '
            'Fix: start with load_from instead of resume, or resume without FSDP'
        )


def _optimizers(runner: Runner, saved: dict) -> Iterable[tuple[Optimizer, dict]]:
    """Optimizers of a runner, with their saved states."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return [(each.optimizer, saved[name]) for name, each in wrapper.items() if name in saved]
    return [(wrapper.optimizer, saved)] if 'param_groups' in saved else []


def _states(optimizer: Optimizer, saved: dict) -> Iterable[tuple[Tensor, dict]]:
    """Parameters of an optimizer, with their saved states; torch matches them by their position, too."""
    for group, saved_group in zip(optimizer.param_groups, saved['param_groups']):
        for parameter, index in zip(group['params'], saved_group['params']):
            yield parameter, saved['state'].get(index, {})
