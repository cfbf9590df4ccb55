"""Utilities: checkpoint loading and conversion, the environment report, the command lines' common parts."""

import importlib

_MODULES = {
    'check_fit': 'architecture',
    'convert_birefnet_state_dict': 'convert',
    'infer_backbone_name': 'architecture',
    'infer_model_config': 'architecture',
    'load_birefnet_state_dict': 'convert',
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    # Conversion imports the models, which the environment report has to do without.
    if name in _MODULES:
        return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
