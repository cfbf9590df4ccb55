"""Helpers for threads, processes and the terminal; also exports ``convert_birefnet_state_dict``."""

import importlib

_MODULES = {
    'check_fit': 'mmbirefnet.zoo.architecture',
    'convert_birefnet_state_dict': 'mmbirefnet.zoo.convert',
    'infer_backbone_name': 'mmbirefnet.zoo.architecture',
    'infer_model_config': 'mmbirefnet.zoo.architecture',
    'load_birefnet_state_dict': 'mmbirefnet.zoo.convert',
}
__all__ = ['register_all_modules', *_MODULES]


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import all registered modules; ``mmengine.hub.get_model('mmbirefnet::…')`` calls this.

    Args:
        init_default_scope: Whether to set the default scope to ``mmseg``, which our configs need.
    """
    from mmengine.registry import DefaultScope

    from mmbirefnet import registry

    for each in vars(registry).values():
        if isinstance(each, registry.Registry) and each.scope == 'mmbirefnet':
            each.import_from_location()
    if init_default_scope:
        DefaultScope.get_instance('mmbirefnet_configs', scope_name='mmseg')


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
