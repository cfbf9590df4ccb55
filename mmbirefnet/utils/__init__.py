"""Utilities: checkpoint loading and conversion, the environment report, the command lines' common parts."""

import importlib

__all__ = ['convert_birefnet_state_dict', 'infer_model_config']


def __getattr__(name: str):
    # Conversion imports the models, which the environment report has to do without.
    if name in __all__:
        return getattr(importlib.import_module('.convert', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
