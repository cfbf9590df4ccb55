"""Whether ``torch.compile`` or ``torch.export`` is tracing, on every torch."""

try:
    from torch.compiler import is_compiling
except ImportError:  # torch < 2.3; their tracer knows this function
    from torch._utils import is_compiling

__all__ = ['is_compiling']
