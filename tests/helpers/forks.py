"""What works only in part with the onedl-* forks of the OpenMMLab packages."""

from importlib.metadata import distributions

from mmengine.config import Config

STOCK = any(found.name == 'mmsegmentation' for found in distributions())


def findable(path) -> bool:
    """Whether all bases of a config are found: onedl-mmengine looks for ``mmseg::`` in the stock package alone."""
    try:
        return STOCK or bool(Config.fromfile(path))
    except ModuleNotFoundError:
        return False
