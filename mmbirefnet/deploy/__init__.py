"""Forms of the model for inference."""

import mmbirefnet.needs_openmmlab  # noqa: F401

from .fuse import fuse

__all__ = ['fuse']
