"""What belongs nowhere else, and the documented path of ``convert_birefnet_state_dict``."""

import importlib

_MODULES = {
    'check_fit': 'mmbirefnet.zoo.architecture',
    'convert_birefnet_state_dict': 'mmbirefnet.zoo.convert',
    'infer_backbone_name': 'mmbirefnet.zoo.architecture',
    'infer_model_config': 'mmbirefnet.zoo.architecture',
    'load_birefnet_state_dict': 'mmbirefnet.zoo.convert',
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
