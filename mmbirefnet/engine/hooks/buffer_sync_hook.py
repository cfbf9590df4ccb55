"""The same buffers on all processes."""

from __future__ import annotations

from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, SyncBuffersHook
from mmengine.runner import Runner

from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class BufferSyncHook(SyncBuffersHook):
    """mmengine's ``SyncBuffersHook`` that takes care of ``EMAHook`` too.

    Averages BatchNorm's running statistics over all processes after each epoch of training, so that all of them
    validate, and rank 0 saves, the same model. ``EMAHook`` saves the buffers of its own model, which are those of the
    last iteration: they are averaged as well.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Average the buffers of the model and of its averaged copy."""
        super().after_train_epoch(runner)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                all_reduce_params(hook.ema_model.buffers(), op='mean')  # nothing to do for one process
