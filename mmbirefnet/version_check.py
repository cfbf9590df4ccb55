"""Checks, at import, of the OpenMMLab packages that mmbirefnet builds on.

Versions are read from the packages' own ``version.py``, not from the distribution names, so that the stock packages
and the onedl-* forks, which share their import names, both pass.
"""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Optional

from packaging.version import Version

# import name: (lowest version, first version too new, distribution to install)
REQUIREMENTS = {
    'mmengine': ('0.10.0', '1.0.0', 'mmengine==0.10.7'),
    'mmcv': ('2.0.0rc4', '3.0.0', 'mmcv==2.1.0'),
    'mmseg': ('1.2.0', '2.0.0', 'mmsegmentation==1.2.2'),
}
# mmsegmentation up to 1.2.2 asserts mmcv<2.2.0; its maintained fork (from 1.3 on) has no such bound.
STOCK_MMSEG_BELOW = '1.3.0'
STOCK_MMCV_BELOW = '2.2.0'

OPENCV_MEND = 'install libGL (apt install libgl1) or pip install --force-reinstall --no-deps opencv-python-headless'


def package_dir(name: str) -> Optional[Path]:
    """Folder of a top-level package, found without importing it; ``None`` where it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def installed_version(name: str) -> Optional[str]:
    """``__version__`` in the package's ``version.py``, read without importing it; ``None`` where there is none."""
    folder = package_dir(name)
    if folder is None or not (folder / 'version.py').is_file():
        return None
    match = re.search(r"""^__version__\s*=\s*['"]([^'"]+)""", (folder / 'version.py').read_text('utf-8'), re.M)
    return match and match[1]


def install_command(name: str) -> str:
    """The command that installs a version of ``name`` that will do."""
    requirement = REQUIREMENTS[name][2]
    if (
        name == 'mmcv'
    ):  # without these, pip installs mmcv without its ops, or takes those of another torch from its cache
        return (
            f'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps {requirement}'
        )
    return f'pip install {requirement}'


def check_versions() -> None:
    """Raise ``ImportError`` if mmengine, mmcv or mmseg is missing or of a version that will not do."""
    mmseg = installed_version('mmseg')
    for name, (lowest, too_new, _) in REQUIREMENTS.items():
        if name == 'mmcv' and mmseg and Version(mmseg) < Version(STOCK_MMSEG_BELOW):
            too_new = STOCK_MMCV_BELOW
        found = installed_version(name)
        if found is None or not Version(lowest) <= Version(found) < Version(too_new):
            have = f'{name} {found} in {package_dir(name)}' if found else f'no {name}'
            raise ImportError(
                f'mmbirefnet needs {name}>={lowest},<{too_new} but found {have}. To mend: {install_command(name)}'
            )


def check_mmcv_ops() -> None:
    """Raise ``ImportError`` if mmcv cannot be imported or has no compiled ops that fit the installed torch."""
    try:
        import mmcv
    except ImportError as error:
        mend = OPENCV_MEND if 'libGL' in str(error) else install_command('mmcv')
        raise ImportError(f'mmcv {installed_version("mmcv")} does not import: {error}. To mend: {mend}') from error

    import torch

    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        built = any(Path(mmcv.__file__).parent.glob('_ext*'))
        why = f'ops that were compiled for another torch ({error})' if built else 'no compiled ops (mmcv-lite?)'
        raise ImportError(
            f'mmcv {mmcv.__version__}, beside torch {torch.__version__}, has {why}. To mend: {install_command("mmcv")}'
        ) from error


def check_environment() -> None:
    """Raise ``ImportError``, naming the mend, where the packages below mmbirefnet will not do."""
    check_versions()
    check_mmcv_ops()
