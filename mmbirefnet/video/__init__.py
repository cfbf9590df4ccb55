"""Background removal in videos. Needs PyAV, the extra ``video``."""

try:
    import av.codec.hwaccel  # noqa: F401  the newest module of those that are used
except ImportError as error:
    raise ImportError(f"videos need PyAV ({error}). Fix: pip install 'mmbirefnet[video]'") from error

from .process import VideoResult, process_video

__all__ = ['VideoResult', 'process_video']
