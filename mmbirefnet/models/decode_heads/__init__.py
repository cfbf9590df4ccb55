from .biref_head import BiRefHead, BiRefOutput, Features

__all__ = ['BiRefHead', 'BiRefOutput', 'Features']
