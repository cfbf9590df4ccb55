"""Model zoo: catalog, download, and conversion of released models in both directions."""

import importlib

_MODULES = {
    'ModelInfo': 'catalog',
    'fetch': 'download',
    'find_info': 'catalog',
    'get_info': 'catalog',
    'identify': 'catalog',
    'list_models': 'catalog',
    'detect_crop_order': 'crop_order',
    'to_reference_state_dict': 'to_reference',
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    # Imported lazily, since the catalog works without torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
