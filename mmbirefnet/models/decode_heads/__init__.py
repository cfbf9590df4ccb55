from .biref_head import BiRefHead

__all__ = ['BiRefHead']
