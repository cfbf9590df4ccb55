"""setup(), the version checks and the report, against fake packages and the installed ones."""

import re
import subprocess
import sys
from pathlib import Path

import packaging
import pytest

import mmbirefnet
from mmbirefnet import environment

ROOT = Path(__file__).parents[1]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Puts fake packages of given versions before the installed ones; ``None`` hides one."""

    def put(**versions):
        for name, version in versions.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').touch()
            (tmp_path / name / 'version.py').write_text(f"# fake\n__version__ = '{version}'\n")
        folders = {name: tmp_path / name if version else None for name, version in versions.items()}
        monkeypatch.setattr(environment, 'package_dir', folders.get)

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
def test_supported_versions(packages, mmengine, mmcv, mmseg):
    packages(mmengine=mmengine, mmcv=mmcv, mmseg=mmseg)
    environment.check_versions()


@pytest.mark.parametrize(
    ('versions', 'needed', 'fix'),
    [
        (dict(mmengine='0.9.1', mmcv='2.1.0', mmseg='1.2.2'), 'mmengine>=0.10.0,<0.11.0', 'mmengine==0.10.7'),
        (dict(mmengine='0.10.7', mmcv='2.2.0', mmseg='1.2.2'), 'mmcv>=2.1.0,<2.2.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.7', mmcv='2.1.0rc1', mmseg='1.2.2'), 'mmcv>=2.1.0,<2.2.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.12', mmcv='2.4.0', mmseg='1.4.2'), 'mmcv>=2.1.0,<2.4.0', 'mmcv==2.1.0'),
        (dict(mmengine='0.10.7', mmcv='2.1.0', mmseg='1.2.1'), 'mmseg>=1.2.2,<1.5.0', 'mmsegmentation==1.2.2'),
    ],
)
def test_unsupported_version_is_named_with_its_fix(packages, versions, needed, fix):
    packages(**versions)
    with pytest.raises(ImportError) as caught:
        environment.check_versions()
    name = needed.partition('>')[0]
    message = str(caught.value)
    assert message.startswith(f'mmbirefnet needs {needed} but found {name} {versions[name]} in ')
    assert ' Fix: pip install' in message
    assert message.endswith(fix)


@pytest.mark.parametrize('line', ["'1.2.3rc1'", "version('packaging')"], ids=['stock', 'fork'])
def test_version_is_read_without_importing(tmp_path, monkeypatch, line):
    (tmp_path / 'version.py').write_text(f'from importlib.metadata import version\n\n__version__ = {line}\n')
    (tmp_path / '__init__.py').write_text('raise RuntimeError\n')
    monkeypatch.setattr(environment, 'package_dir', lambda name: tmp_path)
    assert environment.installed_version('made_up') == ('1.2.3rc1' if 'rc' in line else packaging.__version__)


def test_missing_package_is_named_with_its_fix(packages):
    packages(mmengine='0.10.7', mmcv='2.1.0', mmseg=None)
    with pytest.raises(
        ImportError, match=r'needs mmseg>=1.2.2.*, which is not installed. Fix: pip install mmsegmentation==1.2.2$'
    ):
        environment.check_versions()


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
@pytest.mark.soak
def test_setup_names_unusable_mmcv(tmp_path, module, code, expected):
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    (folder / '__init__.py').write_text("__version__ = '2.1.0'\n")
    (folder / 'version.py').write_text("__version__ = '2.1.0'\n")
    if module:
        (folder / module).write_text(f"__version__ = '2.1.0'\n{code}\n")
    done = run_python('import mmbirefnet.registry', tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith('ImportError: mmcv')
    assert expected in last
    assert 'Fix: ' in last
    if module != '__init__.py':
        assert '--no-build-isolation --no-cache-dir --force-reinstall --no-deps mmcv==2.1.0' in last


HIDE = (
    'import sys\n'
    'class Hide:\n'
    '    def find_spec(self, name, path=None, target=None):\n'
    "        if name.partition('.')[0] in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg'):\n"
    "            raise ModuleNotFoundError(f'{name} is hidden', name=name)\n"
    'sys.meta_path.insert(0, Hide())\n'
)
MISSING = 'ImportError: mmbirefnet needs mmengine>=0.10.0,<0.11.0, which is not installed. Fix: pip install'


@pytest.mark.parametrize('part', ['models', 'datasets', 'engine', 'evaluation', 'visualization', 'deploy'])
def test_parts_that_need_openmmlab_name_what_is_missing(part):
    done = run_python(HIDE + f'import mmbirefnet.{part}')
    assert done.stderr.strip().splitlines()[-1].startswith(MISSING)


def test_checkpoints_need_openmmlab(tmp_path):
    (tmp_path / 'model.pth').touch()
    code = f'from mmbirefnet.apis import BiRefNetInferencer; BiRefNetInferencer({str(tmp_path / "model.pth")!r})'
    assert run_python(HIDE + code).stderr.strip().splitlines()[-1].startswith(MISSING)


@pytest.mark.parametrize('words', [['finetune', '--help'], ['check', '.'], ['convert', 'a.pth', 'b.pth']])
def test_commands_that_need_openmmlab_name_what_is_missing(words):
    done = run_python(HIDE + f'from mmbirefnet.cli.main import main; sys.exit(main({words}))')
    assert done.stderr.startswith(MISSING.replace('ImportError', 'error')), done.stderr


@pytest.mark.soak
def test_setup_makes_mmengine_read_its_own_checkpoints(tmp_path):
    """With stock tools, which import this package only when they meet its scope in a config."""
    code = f"""
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
path = {str(tmp_path / 'epoch_1.pth')!r}
torch.save(dict(state_dict=dict(x=torch.zeros(1)), message_hub=dict(loss=HistoryBuffer([1.0], [1]))), path)
assert MODELS.get('mmbirefnet.BiRefNet').__name__ == 'BiRefNet'
print(CheckpointLoader.load_checkpoint(path)['message_hub']['loss'].current())
print(torch.load(path, weights_only=True)['message_hub']['loss'].current())
"""
    done = run_python(code)
    assert done.stdout.split()[-2:] == ['1.0', '1.0'], done.stderr


def test_deform_conv_with_wrong_values_is_found(monkeypatch):
    import mmcv.ops

    class Wrong(mmcv.ops.ModulatedDeformConv2dPack):
        def forward(self, x):
            return super().forward(x) + 1

    environment.check_deform_conv('cpu')
    monkeypatch.setattr(mmcv.ops, 'ModulatedDeformConv2dPack', Wrong)
    with pytest.raises(RuntimeError, match='DCNv2 is off by 1.*Fix: '):
        environment.check_deform_conv('cpu')


def run_report(*paths):
    done = run_python('import runpy; runpy.run_module("mmbirefnet.environment", run_name="__main__")', *paths)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
def test_report():
    import mmcv
    import torch

    output = run_report()
    # Of a distribution's version, the local part (+cu130) may be missing.
    assert re.search(rf'^torch: {re.escape(torch.__version__.partition("+")[0])}', output, re.M)
    assert re.search(rf'^mmcv: {re.escape(mmcv.__version__)} in ', output, re.M)
    assert re.search(r'^  PyTorch: ', output, re.M)
    for check in ('supported versions', 'import of mmseg', 'DCNv2 of mmcv, CPU'):
        assert f'\n{check}: ok\n' in output
    assert ('DCNv2 of mmcv, GPU: ok' in output) == torch.cuda.is_available()


@pytest.mark.soak
def test_report_on_a_broken_environment(tmp_path):
    """mmcv without ops, and a torchvision built for another torch."""
    for name in ('mmcv', 'torchvision'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'version.py').write_text("__version__ = '2.1.0'\n")
    (tmp_path / 'mmcv/__init__.py').write_text("__version__ = '2.1.0'\n")
    (tmp_path / 'torchvision/__init__.py').write_text("raise RuntimeError('operator nms\\nis not there')\n")
    output = run_report(tmp_path)
    assert '\nsupported versions: ok\n' in output
    assert '\nmmengine: failed: RuntimeError: operator nms is not there\n' in output
    assert re.search(r'^DCNv2 of mmcv, CPU: failed: ImportError: mmcv 2.1.0.* has no compiled ops.*Fix: ', output, re.M)


@pytest.mark.parametrize(('text', 'numbers'), [('1.2.3', (1, 2, 3)), ('1.0rc1', (1, 0)), ('2.1.0.dev3+cpu', (2, 1, 0))])
def test_version_info(text, numbers):
    source = (ROOT / 'mmbirefnet/version.py').read_text().replace(repr(mmbirefnet.__version__), repr(text))
    namespace = {}
    exec(source, namespace)
    assert (namespace['__version__'], namespace['version_info']) == (text, numbers)
