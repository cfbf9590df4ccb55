"""Mixed precision without loss scaling, on the GPU and on the CPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast

from mmbirefnet.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs the forward pass under bfloat16 autocast.

    bfloat16 has float32's range, so no loss scaling is needed; mmengine's ``AmpOptimWrapper`` scales all the same and
    refuses the CPU. Weights, gradients and the optimizer's state stay float32.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
