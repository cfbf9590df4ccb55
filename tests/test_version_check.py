"""The import checks, against packages made up for the purpose."""

import subprocess
import sys
from pathlib import Path

import packaging
import pytest

from mmbirefnet import version_check

ROOT = Path(__file__).parents[1]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Puts packages of given versions, ``None`` for absent, before the installed ones."""

    def put(**versions):
        for name, version in versions.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').touch()
            (tmp_path / name / 'version.py').write_text(f"# made up\n__version__ = '{version}'\n")
        folders = {name: tmp_path / name if version else None for name, version in versions.items()}
        monkeypatch.setattr(version_check, 'package_dir', folders.get)

    return put


@pytest.mark.parametrize(
    ('mmengine', 'mmcv', 'mmseg'),
    [
        ('0.10.7', '2.1.0', '1.2.2'),
        ('0.10.0', '2.1.0', '1.2.2'),
        ('0.10.12', '2.3.6', '1.4.2'),  # the onedl forks, whose mmseg sets mmcv no upper bound
        ('0.10.12', '2.1.0', '1.4.2'),
    ],
)
def test_versions_that_will_do(packages, mmengine, mmcv, mmseg):
    packages(mmengine=mmengine, mmcv=mmcv, mmseg=mmseg)
    version_check.check_versions()


@pytest.mark.parametrize(
    ('versions', 'needed', 'mend'),
    [
        (dict(mmengine='0.9.1', mmcv='2.1.0', mmseg='1.2.2'), 'mmengine>=0.10.0,<0.11.0', 'mmengine==0.10.7'),
        (dict(mmengine='0.10.7', mmcv='2.2.0', mmseg='1.2.2'), 'mmcv>=2.1.0,<2.2.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.7', mmcv='2.1.0rc1', mmseg='1.2.2'), 'mmcv>=2.1.0,<2.2.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.12', mmcv='2.4.0', mmseg='1.4.2'), 'mmcv>=2.1.0,<2.4.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.7', mmcv='2.1.0', mmseg='1.2.1'), 'mmseg>=1.2.2,<1.5.0', 'mmsegmentation==1.2.2'),
    ],
)
def test_wrong_version_is_named_with_its_mend(packages, versions, needed, mend):
    packages(**versions)
    with pytest.raises(ImportError) as caught:
        version_check.check_versions()
    name = needed.partition('>')[0]
    message = str(caught.value)
    assert message.startswith(f'mmbirefnet needs {needed} but found {name} {versions[name]} in ')
    assert message.endswith(mend)


@pytest.mark.parametrize('line', ["'1.2.3rc1'", "version('packaging')"], ids=['stock', 'fork'])
def test_version_is_read_without_importing(tmp_path, monkeypatch, line):
    (tmp_path / 'version.py').write_text(f'from importlib.metadata import version\n\n__version__ = {line}\n')
    (tmp_path / '__init__.py').write_text('raise RuntimeError\n')
    monkeypatch.setattr(version_check, 'package_dir', lambda name: tmp_path)
    assert version_check.installed_version('made_up') == ('1.2.3rc1' if 'rc' in line else packaging.__version__)


def test_missing_package_is_named_with_its_mend(packages):
    packages(mmengine='0.10.7', mmcv='2.1.0', mmseg=None)
    with pytest.raises(ImportError, match=r'needs mmseg>=1.2.2.*: none found.*pip install mmsegmentation==1.2.2$'):
        version_check.check_versions()


def run_python(code, *paths):
    environment = {'PYTHONPATH': ':'.join(map(str, [*paths, ROOT])), 'PATH': '/usr/bin:/bin'}
    return subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ('module', 'code', 'expected'),
    [
        (None, '', 'no compiled ops (is it mmcv-lite?)'),
        ('_ext.py', 'raise ImportError("undefined symbol: _ZN3c10")', 'compiled for another torch (undefined symbol'),
        ('__init__.py', 'raise ImportError("libGL.so.1: cannot open")', 'opencv-python-headless'),
    ],
)
def test_import_names_unusable_mmcv(tmp_path, module, code, expected):
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    (folder / '__init__.py').write_text("__version__ = '2.1.0'\n")
    (folder / 'version.py').write_text("__version__ = '2.1.0'\n")
    if module:
        (folder / module).write_text(f"__version__ = '2.1.0'\n{code}\n")
    done = run_python('import mmbirefnet', tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith('ImportError: mmcv')
    assert expected in last
    assert 'To mend: ' in last
    if module != '__init__.py':
        assert '--no-build-isolation --no-cache-dir --force-reinstall --no-deps mmcv==2.1.0' in last


def test_import_leaves_optional_packages_alone():
    code = (
        'import sys, mmbirefnet\n'
        "print(mmbirefnet.__version__, [m for m in ('torchvision', 'timm', 'mmpretrain', 'mmbirefnet.models') "
        'if m in sys.modules])'
    )
    done = run_python(code)
    assert done.stdout.split() == [version_check.installed_version('mmbirefnet'), '[]'], done.stderr


HIDE = (
    'import sys\n'
    'class Hide:\n'
    '    def find_spec(self, name, path=None, target=None):\n'
    "        if name.partition('.')[0] in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg'):\n"
    "            raise ModuleNotFoundError(f'{name} is hidden', name=name)\n"
    'sys.meta_path.insert(0, Hide())\n'
)


def test_import_goes_through_without_torch_and_openmmlab():
    done = run_python(HIDE + 'import mmbirefnet, mmbirefnet.apis; print(mmbirefnet.__version__)')
    assert done.stdout.strip() == version_check.installed_version('mmbirefnet'), done.stderr


@pytest.mark.parametrize('part', ['models', 'datasets', 'engine', 'evaluation', 'visualization', 'deploy'])
def test_parts_that_need_openmmlab_say_so(part):
    done = run_python(HIDE + f'import mmbirefnet.{part}')
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: mmbirefnet needs mmengine>=0.10.0,<0.11.0: none found. To mend: pip install')


def test_checkpoints_need_openmmlab(tmp_path):
    (tmp_path / 'model.pth').touch()
    code = f'from mmbirefnet.apis import BiRefNetInferencer; BiRefNetInferencer({str(tmp_path / "model.pth")!r})'
    last = run_python(HIDE + code).stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: mmbirefnet needs mmengine>=0.10.0,<0.11.0: none found. To mend: pip install')


def test_import_still_checks_what_is_there():
    """With one of the packages it is no machine for exported models alone."""
    done = run_python(HIDE.replace("'mmseg'", "'none'") + 'import mmbirefnet')
    assert done.returncode == 1
    assert 'ImportError: mmbirefnet needs mmengine>=0.10.0,<0.11.0: none found' in done.stderr
