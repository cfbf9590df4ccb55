"""Checks, at import, of the OpenMMLab packages that mmbirefnet builds on.

Versions come from the packages' own ``version.py``, not from distribution names, so that the stock packages and the
onedl-* forks, which share their import names, both pass.
"""

import functools
import importlib
import importlib.util
import runpy
from pathlib import Path

# import name: (lowest version, first version too new, distribution to install); what was tried, see docs/versions.md
REQUIREMENTS = {
    'mmengine': ('0.10.0', '0.11.0', 'mmengine==0.10.7'),
    'mmcv': ('2.1.0', '2.4.0', 'mmcv==2.1.0'),
    'mmseg': ('1.2.2', '1.5.0', 'mmsegmentation==1.2.2'),  # earlier hooks take no visualizer but mmseg's own
}
# mmsegmentation up to 1.2.2 asserts mmcv<2.2.0; its maintained fork (from 1.3 on) has no such bound.
STOCK_MMSEG_BELOW = '1.3.0'
STOCK_MMCV_BELOW = '2.2.0'

TORCH_MEND = 'pip install torch torchvision (a pair made for each other)'
OPENCV_MEND = 'install libGL (apt install libgl1) or pip install --force-reinstall --no-deps opencv-python-headless'


def package_dir(name: str) -> Path | None:
    """Folder of a top-level package, found without importing it; ``None`` where it is not installed."""
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:  # an import hook that hides it
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def installed_version(name: str) -> str | None:
    """``__version__`` of the package's ``version.py``, run without importing the package; ``None`` where there is none.

    The stock packages write it out there, the forks ask their distribution for it.
    """
    folder = package_dir(name)
    if folder is None or not (folder / 'version.py').is_file():
        return None
    return runpy.run_path(str(folder / 'version.py')).get('__version__')


def install_command(name: str, rebuild: bool = False) -> str:
    """The command that installs a version of ``name`` that will do; ``rebuild`` replaces one of the same version.

    With build isolation pip would install mmcv without its ops, and from its cache those made for another torch.
    """
    options = ' --force-reinstall --no-deps' if rebuild else ''
    if name == 'mmcv':
        return (
            'pip install "setuptools<82" wheel ninja psutil && MMCV_WITH_OPS=1 pip install --no-build-isolation '
            f'--no-cache-dir{options} {REQUIREMENTS[name][2]}'
        )
    return f'pip install{options} {REQUIREMENTS[name][2]}'


def check_versions() -> None:
    """Raise ``ImportError`` if mmengine, mmcv or mmseg is missing or of a version that will not do."""
    found = {name: installed_version(name) for name in REQUIREMENTS}
    for name, (lowest, too_new, _) in REQUIREMENTS.items():
        if found[name] is None:
            raise ImportError(
                f'mmbirefnet needs {name}>={lowest},<{too_new}: none found. To mend: {install_command(name)}'
            )

    from packaging.version import Version  # comes with mmcv

    for name, (lowest, too_new, _) in REQUIREMENTS.items():
        if name == 'mmcv' and Version(found['mmseg']) < Version(STOCK_MMSEG_BELOW):
            too_new = STOCK_MMCV_BELOW
        if not Version(lowest) <= Version(found[name]) < Version(too_new):
            raise ImportError(
                f'mmbirefnet needs {name}>={lowest},<{too_new} but found {name} {found[name]} in {package_dir(name)}. '
                f'To mend: {install_command(name)}'
            )


def check_mmcv_ops() -> None:
    """Raise ``ImportError`` if mmcv cannot be imported or has no compiled ops that fit the installed torch."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ImportError(f'mmbirefnet needs torch: none found. To mend: {TORCH_MEND}') from error
    try:
        import mmcv
    except ImportError as error:
        mend = OPENCV_MEND if 'libGL' in str(error) else install_command('mmcv', rebuild=True)
        raise ImportError(f'mmcv does not import: {error}. To mend: {mend}') from error
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        built = any(Path(mmcv.__file__).parent.glob('_ext*'))
        why = f'ops that were compiled for another torch ({error})' if built else 'no compiled ops (is it mmcv-lite?)'
        raise ImportError(
            f'mmcv {mmcv.__version__}, beside torch {torch.__version__}, has {why}. '
            f'To mend: {install_command("mmcv", rebuild=True)}'
        ) from error


def has_openmmlab() -> bool:
    """Whether any of the packages is installed; a machine that runs exported models has none."""
    return any(package_dir(name) for name in REQUIREMENTS)


@functools.cache
def check_environment() -> None:
    """Raise ``ImportError``, naming the mend, where the packages below mmbirefnet will not do."""
    check_versions()
    check_mmcv_ops()
