"""Pictures of soft maps."""

import mmbirefnet.needs_openmmlab  # noqa: F401

from .contact_sheet import SheetRow, draw_contact_sheet
from .soft_map_visualizer import SoftMapVisualizer

__all__ = ['SheetRow', 'SoftMapVisualizer', 'draw_contact_sheet']
