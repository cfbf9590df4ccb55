"""Fuse and export models for inference."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported

from .fuse import fuse

__all__ = ['fuse']
