"""Report on the environment: ``python -m mmbirefnet.utils.collect_env``.

Prints versions, whether mmcv's compiled ops work, and what is missing together with the command that mends it. It
imports nothing that it does not try first, so that it runs in a broken environment too.
"""

import importlib
import platform
import sys
from collections.abc import Callable
from typing import NamedTuple

from mmbirefnet.version import __version__
from mmbirefnet.version_check import OPENCV_MEND, TORCH_MEND, check_mmcv_ops, check_versions, install_command

# module: (what it is for, the command that mends it)
PACKAGES = {
    'torch': ('needed', TORCH_MEND),
    'torchvision': ('only for mmpretrain', TORCH_MEND),
    'mmengine': ('needed', install_command('mmengine')),
    'mmcv': ('needed', install_command('mmcv')),
    'mmseg': ('needed', install_command('mmseg')),
    'mmpretrain': ('only for its backbones', 'pip install mmpretrain==1.2.0'),
    'cv2': ('needed', OPENCV_MEND),
    'numpy': ('needed', 'pip install numpy'),
    'scipy': ('needed', 'pip install scipy'),
    'ftfy': ('needed by mmseg', 'pip install ftfy'),
    'regex': ('needed by mmseg', 'pip install regex'),
    'py_sod_metrics': ('only for evaluation', 'pip install pysodmetrics'),
    'safetensors': ('only to convert .safetensors files', 'pip install safetensors'),
}
SEE_ERROR = 'see the error'
DISTRIBUTIONS = {'cv2': ('opencv-python', 'opencv-python-headless'), 'py_sod_metrics': ('pysodmetrics',)}


class Entry(NamedTuple):
    """One line of the report: what was looked at, what was found, and the mend (empty where all is well)."""

    name: str
    found: str
    mend: str = ''


def one_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def probe(name: str) -> Entry:
    """Import a package and report its version, or why it cannot be imported."""
    purpose, mend = PACKAGES[name]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return Entry(name, f'missing ({purpose})', mend)
        return Entry(name, f'broken ({purpose}): {one_line(error)}', SEE_ERROR)
    except Exception as error:  # a torchvision made for another torch raises RuntimeError, for example
        at_fault = mend if name in ('torch', 'torchvision', 'cv2', 'numpy') else SEE_ERROR
        return Entry(name, f'broken ({purpose}): {one_line(error)}', at_fault)
    version = getattr(module, '__version__', None) or distribution_version(name)
    return Entry(name, f'{version} in {getattr(module, "__path__", [module.__file__])[0]}')


def distribution_version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return 'of unknown version'


def check(name: str, function: Callable[[], str]) -> Entry:
    """Run a check; a raised error is the finding, and our own ImportErrors end with the mend."""
    try:
        return Entry(name, function())
    except Exception as error:
        message, _, mend = one_line(error).partition(' To mend: ')
        return Entry(name, f'fails: {message}', mend or SEE_ERROR)


def versions_fit() -> str:
    check_versions()
    return 'yes'


def deform_conv(device: str) -> str:
    """Run mmcv's DCNv2 once on ``device``; fresh offsets are zero and masks 1/2, so that it halves a convolution."""
    check_mmcv_ops()
    import torch
    from mmcv.ops import ModulatedDeformConv2dPack

    conv = ModulatedDeformConv2dPack(2, 3, kernel_size=3, padding=1, bias=False).to(device)
    image = torch.rand(1, 2, 8, 8, device=device)
    expected = torch.nn.functional.conv2d(image, conv.weight, padding=1) / 2
    difference = (conv(image) - expected).abs().max().item()
    if not difference < 1e-3:
        raise RuntimeError(f'DCNv2 is off by {difference:.1e}. To mend: {install_command("mmcv", rebuild=True)}')
    return 'works'


def torch_devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f'built for CUDA {torch.version.cuda}, GPUs: {", ".join(names) or "none"}'


def has_cuda() -> bool:
    try:
        import torch

        return torch.cuda.is_available()
    except Exception:
        return False


def collect_env() -> list[Entry]:
    """Look at everything and return the report's lines."""
    entries = [
        Entry('mmbirefnet', __version__),
        Entry('Python', f'{platform.python_version()} in {sys.prefix}'),
        Entry('platform', platform.platform()),
        *map(probe, PACKAGES),
        check('CUDA', torch_devices),
        check('versions fit', versions_fit),
        check("mmcv's DCNv2 on the CPU", lambda: deform_conv('cpu')),
    ]
    if has_cuda():
        entries.append(check("mmcv's DCNv2 on the GPU", lambda: deform_conv('cuda')))
    return entries


def report(entries: list[Entry]) -> str:
    """The report as text: one line an entry, then what is to be mended."""
    width = max(len(entry.name) for entry in entries)
    lines = [f'{entry.name:<{width}}  {entry.found}' for entry in entries]
    mends: dict[str, list[str]] = {}
    for entry in entries:
        if entry.mend:
            mends.setdefault(entry.mend, []).append(entry.name)
    lines += ['', 'To mend:' if mends else 'Nothing is missing.']
    lines += [f'  {", ".join(names)}: {mend}' for mend, names in mends.items()]
    return '\n'.join(lines)


def main() -> None:
    print(report(collect_env()))


if __name__ == '__main__':
    main()
