"""Background removal in videos. Needs PyAV, the extra ``video``."""
