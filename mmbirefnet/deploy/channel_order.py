"""The order of channels that a model is meant for."""

from torch import nn


def takes_rgb(preprocessor: nn.Module | None) -> bool:
    """Whether a data preprocessor turns images, which the pipelines give as BGR, to RGB."""
    # mmsegmentation has an attribute of its own; in its fork onedl-mmsegmentation it is that of mmengine.
    inherited = getattr(preprocessor, '_channel_conversion', False)
    return getattr(preprocessor, 'channel_conversion', inherited)
