"""Former names of hooks and of their settings."""

import importlib

import pytest
from mmengine.config import Config

from mmbirefnet.engine.launch import runner_of
from mmbirefnet.registry import HOOKS, RENAMED


@pytest.mark.parametrize(('old', 'new'), RENAMED.items())
def test_former_names_of_hooks(old, new):
    for module in map(importlib.import_module, ('mmbirefnet.engine', 'mmbirefnet.engine.hooks')):
        with pytest.deprecated_call(match=f'{old} is now called {new}, and will be removed in 0.3') as warnings:
            assert getattr(module, old) is getattr(module, new)
        assert [warning.filename for warning in warnings] == [__file__]
    for key in (old, f'mmbirefnet.{old}'):
        with pytest.deprecated_call(match=new):
            assert HOOKS.get(key) is HOOKS.get(new)


def test_unknown_names_of_hooks():
    with pytest.raises(ImportError, match='NoSuchHook'):
        from mmbirefnet.engine.hooks import NoSuchHook  # noqa: F401


@pytest.mark.parametrize(
    ('settings', 'expected'), [(dict(masks='soft'), dict(type='SoftMaskHook', masks='soft')), (None, None)]
)
def test_former_keys_of_default_hooks(settings, expected):
    """A config changes a hook of its base under the key that the hook had."""
    hooks = dict(soft_masks=dict(type='SoftMaskHook'), mask_kind=settings)
    cfg = Config(dict(default_hooks=hooks, launcher='slurm'))
    with pytest.deprecated_call(match='default_hooks.soft_masks'), pytest.raises(SystemExit), runner_of(cfg):
        pass  # Slurm needs GPUs: no runner is built
    assert cfg.default_hooks == dict(soft_masks=expected)
