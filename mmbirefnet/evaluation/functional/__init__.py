"""The measures. Each file of this folder registers its own, so a new measure changes no other file."""

import importlib
import pkgutil

from .registry import MEASURES, Measure, register_curve, register_measure

__all__ = ['MEASURES', 'Measure', 'register_curve', 'register_measure']

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')

# Order of the columns: the measures of the papers come first.
_ORDER = (
    'maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE', 'maxEm', 'meanFm', 'adpEm', 'adpFm', 'mBA', 'maxBIoU',
    'meanBIoU', 'MSE', 'SAD', 'Grad', 'Conn', 'SAD-T', 'MSE-T', 'Grad-T', 'Conn-T',
)  # fmt: skip
_registered = dict(MEASURES)
MEASURES.clear()
MEASURES.update({name: _registered[name] for name in _ORDER} | _registered)
