"""BiRefNet (Zheng et al., 2024) for dichotomous image segmentation, as an OpenMMLab plugin.

Importing it checks the OpenMMLab packages it builds on (``ImportError`` names what was found and the command that
mends it) and lets ``torch.load`` read mmengine's checkpoints under its weights-only guard. Models, data sets and
metrics are imported by the registries when they are first asked for. Where none of these packages is installed,
exported models still run (``mmbirefnet.apis``), and the check comes with the first part that needs them.
"""

import sys

from .version import __version__, version_info
from .version_check import check_environment, has_openmmlab

# The environment report has to run where the checks fail: it is what says why.
if has_openmmlab() and 'mmbirefnet.utils.collect_env' not in sys.orig_argv:
    check_environment()
    from mmbirefnet.fileio.restricted_unpickling import register_safe_globals

    register_safe_globals()

__all__ = ['__version__', 'version_info']
