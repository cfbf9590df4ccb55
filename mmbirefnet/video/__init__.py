"""Background removal in videos. Needs PyAV, the extra ``video``."""

from .process import VideoResult, process_video

__all__ = ['VideoResult', 'process_video']
