"""Strategies of mmengine's ``FlexibleRunner``."""

from __future__ import annotations

from mmengine._strategy import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from mmbirefnet.registry import STRATEGIES


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``, which resumes with any version of PyTorch."""

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the optimizer from a checkpoint.

        mmengine passes the arguments to PyTorch by position, in the order of PyTorch 2.0.
        """
        optimizer = self.optim_wrapper.optimizer
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(sharded)
