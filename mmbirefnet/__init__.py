"""BiRefNet (Zheng et al., 2024) for dichotomous image segmentation, as an OpenMMLab plugin.

``import mmbirefnet`` imports neither torch nor the OpenMMLab packages, and does not change them. All changes are in
:func:`setup`, which runs when ``mmbirefnet.registry`` is imported: by the parts that need OpenMMLab, or by mmengine for
``type='mmbirefnet.…'`` in a config.
"""

import functools
import importlib.util
from typing import TYPE_CHECKING

from .version import __version__, version_info

if TYPE_CHECKING:
    from .apis.cutout import remove_background

__all__ = ['__version__', 'remove_background', 'setup', 'version_info']


@functools.cache
def setup() -> None:
    """Check torch and the OpenMMLab packages, and prepare them.

    - ``torch.load`` with ``weights_only=True`` accepts the objects that mmengine saves in checkpoints.
    - ``transformers``, whose import takes as long as all others together, is imported only when its optimizer Adafactor
      is built, and not with mmengine.
    - mmengine finds configs with names ``mmbirefnet::…``.
    - mmengine loads checkpoints with :mod:`mmbirefnet.fileio.checkpoint_loading`: they cannot run code, downloads are
      checked against their hash, and names of released models work (``load_from='BiRefNet'``).

    You need to call it only to load a checkpoint with mmengine before you build a model of this package.

    Raises:
        ImportError: If a package is missing or its version is not supported; the message ends with the command that
            fixes it.
    """
    from .environment import check_mmcv_ops, check_versions

    check_versions()
    check_mmcv_ops()

    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.registry import OPTIMIZERS

    from .utils.deferred_import import hidden_import

    with hidden_import('transformers'):
        import mmengine.optim  # noqa: F401
    if 'Adafactor' not in OPTIMIZERS and importlib.util.find_spec('transformers'):
        OPTIMIZERS.register_module(name='Adafactor', module=_build_adafactor)

    from .fileio.checkpoint_loading import register_loaders
    from .fileio.restricted_unpickling import register_safe_globals
    from .zoo.loading import register_loader

    register_safe_globals()
    register_loaders()
    register_loader()
    # A module instead of the distribution: mmengine searches beside it, but an editable distribution is elsewhere.
    MODULE2PACKAGE.setdefault('mmbirefnet', 'mmbirefnet.registry')


def _build_adafactor(*args, **kwargs):
    from transformers import Adafactor

    return Adafactor(*args, **kwargs)


def __getattr__(name: str):
    if name == 'remove_background':
        from .apis.cutout import remove_background

        return remove_background
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
