from .biref_head import BiRefHead, Features

__all__ = ['BiRefHead', 'Features']
