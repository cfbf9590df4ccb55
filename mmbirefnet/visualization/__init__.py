"""Figures of predictions."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported

from .sheets import SheetRow, draw_contact_sheet
from .soft_map_visualizer import SoftMapVisualizer

__all__ = ['SheetRow', 'SoftMapVisualizer', 'draw_contact_sheet']
