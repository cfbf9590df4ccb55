"""Testing with the fused model."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.deploy import fuse
from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class FuseHook(Hook):
    """Tests :func:`~mmbirefnet.deploy.fuse` of the model in its place and puts the model back afterwards.

    The BiRefNet may be wrapped, for test-time augmentation or for several processes. Other models are left alone.
    """

    priority = 'LOWEST'  # after EMAHook, which puts its averages into the plain model

    def before_test_epoch(self, runner: Runner) -> None:
        """Fuse the model, now that its checkpoint is loaded."""
        self._owner, self._name = _find(runner)
        self._plain = getattr(self._owner, self._name)
        if isinstance(self._plain, BiRefNet):
            setattr(self._owner, self._name, fuse(self._plain))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Bring the plain model back."""
        setattr(self._owner, self._name, self._plain)


def _find(runner: Runner) -> tuple[Runner | nn.Module, str]:
    """The owner and the attribute that hold the innermost model."""
    owner, name = runner, 'model'
    while not isinstance(model := getattr(owner, name), BiRefNet) and hasattr(model, 'module'):
        owner, name = model, 'module'
    return owner, name
