"""Version checks, and a report for bug reports: ``python -m mmbirefnet.environment``.

Versions are read from ``version.py`` of each package instead of its distribution, so that both the stock OpenMMLab
packages and the onedl-* forks, which have the same import names, are found. No package is imported before its check.
"""

import importlib
import importlib.metadata
import importlib.util
import platform
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from .version import __version__

# Import name: (lowest version, first version that is too new, distribution to install).
# For the tested versions, see docs/en/get_started/versions.md.
REQUIREMENTS = {
    'mmengine': ('0.10.0', '0.11.0', 'mmengine==0.10.7'),
    'mmcv': ('2.1.0', '2.4.0', 'mmcv==2.1.0'),
    'mmseg': ('1.2.2', '1.5.0', 'mmsegmentation==1.2.2'),  # hooks of earlier versions accept only mmseg's visualizer
}
# mmsegmentation up to 1.2.2 asserts mmcv<2.2.0; its maintained fork (1.3 and later) does not.
STOCK_MMSEG_BELOW = '1.3.0'
STOCK_MMCV_BELOW = '2.2.0'
# Distributions in the report.
LISTED = 'torch torchvision mmpretrain timm numpy scipy opencv-python opencv-python-headless onnxruntime safetensors'


def package_dir(name: str) -> Path | None:
    """Find the folder of a top-level package without importing it; ``None`` if it is not installed."""
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:  # raised by an import hook
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def installed_version(name: str) -> str | None:
    """``__version__`` in the package's ``version.py``, run without importing the package; ``None`` if there is none."""
    folder = package_dir(name)
    if folder is None or not (folder / 'version.py').is_file():
        return None
    return runpy.run_path(str(folder / 'version.py')).get('__version__')


def install_command(name: str, rebuild: bool = False) -> str:
    """Return the command that installs a supported version of ``name``; ``rebuild`` replaces an installed one.

    For mmcv, build isolation would omit the ops, and the cache of pip may have ops for another torch.
    """
    options = ' --force-reinstall --no-deps' if rebuild else ''
    if name == 'mmcv':
        return (
            'pip install "setuptools<82" wheel ninja psutil && MMCV_WITH_OPS=1 pip install --no-build-isolation '
            f'--no-cache-dir{options} {REQUIREMENTS[name][2]}'
        )
    return f'pip install{options} {REQUIREMENTS[name][2]}'


def check_versions() -> None:
    """Check mmengine, mmcv and mmseg.

    Raises:
        ImportError: If a package is missing or its version is not supported; the message ends with the command that
            fixes it.
    """
    found = {name: installed_version(name) for name in REQUIREMENTS}
    for name, (lowest, too_new, _) in REQUIREMENTS.items():
        if found[name] is None:
            raise ImportError(
                f'mmbirefnet needs {name}>={lowest},<{too_new}, which is not installed. Fix: {install_command(name)}'
            )

    from packaging.version import Version

    for name, (lowest, too_new, _) in REQUIREMENTS.items():
        if name == 'mmcv' and Version(found['mmseg']) < Version(STOCK_MMSEG_BELOW):
            too_new = STOCK_MMCV_BELOW
        if not Version(lowest) <= Version(found[name]) < Version(too_new):
            raise ImportError(
                f'mmbirefnet needs {name}>={lowest},<{too_new} but found {name} {found[name]} in {package_dir(name)}. '
                f'Fix: {install_command(name)}'
            )


def check_mmcv_ops() -> None:
    """Check that mmcv has compiled ops that work with the installed torch.

    Raises:
        ImportError: If torch or the ops are missing or do not work; the message ends with the command that fixes it.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        fix = 'pip install torch torchvision (versions that belong together)'
        raise ImportError(f'mmbirefnet needs torch, which is not installed. Fix: {fix}') from error
    try:
        import mmcv
    except ImportError as error:
        fix = install_command('mmcv', rebuild=True)
        if 'libGL' in str(error):
            fix = 'apt install libgl1, or pip install --force-reinstall --no-deps opencv-python-headless'
        raise ImportError(f'mmcv cannot be imported: {error}. Fix: {fix}') from error
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        built = any(Path(mmcv.__file__).parent.glob('_ext*'))
        why = f'ops compiled for another torch ({error})' if built else 'no compiled ops (is it mmcv-lite?)'
        raise ImportError(
            f'mmcv {mmcv.__version__}, beside torch {torch.__version__}, has {why}. '
            f'Fix: {install_command("mmcv", rebuild=True)}'
        ) from error


def check_deform_conv(device: str) -> None:
    """Run mmcv's DCNv2 on ``device`` with zero offsets and masks of 1/2, and compare it with half a convolution.

    Raises:
        ImportError: As in :func:`check_mmcv_ops`.
        RuntimeError: If the result is wrong; the message ends with the command that fixes it.
    """
    check_mmcv_ops()
    import torch
    from mmcv.ops import ModulatedDeformConv2dPack

    conv = ModulatedDeformConv2dPack(2, 3, kernel_size=3, padding=1, bias=False).to(device)
    image = torch.rand(1, 2, 8, 8, device=device)
    expected = torch.nn.functional.conv2d(image, conv.weight, padding=1) / 2
    difference = (conv(image) - expected).abs().max().item()
    if not difference < 1e-3:
        raise RuntimeError(f'DCNv2 is off by {difference:.1e}. Fix: {install_command("mmcv", rebuild=True)}')


def _hardware_and_compilers() -> str:
    from mmengine.utils.dl_utils import collect_env

    return ''.join(f'\n  {name}: {value}' for name, value in collect_env().items())


def _outcome(check: Callable[..., str | None], *arguments: str) -> str:
    try:
        return check(*arguments) or 'ok'
    except Exception as error:  # also RuntimeError, from a torchvision that was built for another torch
        return f'failed: {type(error).__name__}: {" ".join(str(error).split())}'


def report() -> str:
    """Return versions, results of the checks, and mmengine's report; works in a broken environment, too."""
    versions = {'mmbirefnet': __version__, 'Python': f'{platform.python_version()} in {sys.prefix}'}
    versions |= {name: f'{installed_version(name)} in {package_dir(name)}' for name in REQUIREMENTS}
    for name in LISTED.split():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = 'not installed'
    outcomes = {
        'supported versions': _outcome(check_versions),
        'import of mmseg': _outcome(lambda: importlib.import_module('mmseg.models') and None),
        'DCNv2 of mmcv, CPU': _outcome(check_deform_conv, 'cpu'),
        'mmengine': _outcome(_hardware_and_compilers),
    }
    if 'CUDA available: True' in outcomes['mmengine']:
        outcomes['DCNv2 of mmcv, GPU'] = _outcome(check_deform_conv, 'cuda')
    return '\n'.join(f'{name}: {text}' for name, text in (versions | outcomes).items())


if __name__ == '__main__':
    print(report())
