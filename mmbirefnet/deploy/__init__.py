"""Forms of the model for inference."""

from .fuse import fuse

__all__ = ['fuse']
