"""tools/setup_env.sh with a Python that only notes what it is asked to do: nothing is downloaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Answers what the script asks a Python about itself, makes "environments" of itself, and notes all else in $CALLS.
FAKE_PYTHON = f"""#!/usr/bin/env bash
case "$*" in
    "- "*) shift; exec {sys.executable} -c "$PATCH
exec(__import__('sys').stdin.read())" "$@" ;;
    *python_version*) echo "$FAKE_VERSION"; exit ;;
    *torch.version.cuda*) echo 13.0; exit ;;
    *purelib*) echo /site; exit ;;
esac
echo "$*" >>"$CALLS"
[[ "$*" != *mmcv==* ]] || echo "FORCE_CUDA=$FORCE_CUDA CPATH=${{CPATH:-}} GPUS=${{CUDA_VISIBLE_DEVICES-all}}" >>"$CALLS"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *mmbirefnet.environment*) [[ $OPS == work ]] || grep -q -- --no-cache-dir "$CALLS" ;;
    *"${{FAIL_ON:-nothing}}"*) echo 'no space left on device' >&2; exit 1 ;;
esac
"""
DF = '#!/bin/sh\necho \'Filesystem blocks Used Available\'; echo "disk 0 0 ${FREE_KB:-100000000}"\n'


# Whatever Python runs the tests, with its own headers.
PYTHON_3_11 = """
import sys, sysconfig
paths = sysconfig.get_paths()
sysconfig.get_paths = lambda: paths
sys.version_info = (3, 11, 7)
"""


@pytest.fixture
def setup(tmp_path):
    """Runs the script; returns its exit status, output and the calls of Python since the last run."""
    bin_dir = tmp_path / 'bin'
    bin_dir.mkdir()
    for name, text in {'fakepython': FAKE_PYTHON, 'df': DF, 'nvidia-smi': '#!/bin/sh\nexit ${NO_GPU-1}\n'}.items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    calls = tmp_path / 'calls'

    def run(**variables):
        calls.write_text('')
        environment = {
            'PATH': f'{bin_dir}:/usr/bin:/bin',
            'CALLS': str(calls),
            'HOME': str(tmp_path),
            'VENV': str(tmp_path / 'env'),
            'PYTHON': 'fakepython',
            'FAKE_VERSION': '3.11.7',
            'PATCH': PYTHON_3_11,
            'OPS': 'work',
            'CXX': 'true',
            'CUDA_HOME': str(tmp_path / 'no-cuda'),
        }
        environment.update(variables)
        done = subprocess.run(
            [ROOT / 'tools/setup_env.sh'], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()

    return run


def installs(calls):
    """The requirements of each call of pip install, without its options."""
    words = [call.split() for call in calls if ' install ' in call]
    return [' '.join(w for w in call[call.index('install') + 1 :] if not w.startswith('-')) for call in words]


def test_first_run_then_nothing_to_do(setup):
    status, output, calls = setup()
    assert status == 0, output
    assert calls[0].startswith('-m venv ')
    found = ' '.join(installs(calls))
    pins = 'torch==2.12.1 torchvision==0.27.1 mmengine==0.10.7 mmsegmentation==1.2.2 mmpretrain==1.2.0 mmcv==2.1.0'
    assert all(pin in found.split() for pin in [*pins.split(), 'ftfy', 'regex', '.[tests]', 'setuptools>=78.1.1,<82'])
    assert found.index('torch==') < found.index('mmcv==')  # mmcv is compiled against the torch that is there
    assert '--no-cache-dir' not in ' '.join(calls)
    for name in ('venv', 'torch', 'openmmlab', 'mmcv', 'project'):
        assert f'] {name}: ' in output
    assert output.count('done in') == 5

    status, output, calls = setup()
    assert (status, calls) == (0, [])
    assert 'up to date' in output


def test_changed_pin_redoes_that_step_and_the_later_ones(setup):
    assert setup()[0] == 0
    status, _, calls = setup(MMPRETRAIN='1.1.0')
    assert status == 0
    assert 'mmpretrain==1.1.0' in ' '.join(calls)
    assert not any('torch==' in call for call in installs(calls))
    assert not any('mmcv==' in call for call in installs(calls))  # it is in, made for this torch, and works

    status, _, calls = setup(TORCH='2.11.0', TORCHVISION='0.26.0', MMPRETRAIN='1.1.0')
    assert status == 0
    assert any(call.endswith('torch==2.11.0 torchvision==0.26.0') for call in installs(calls))
    assert any(call.endswith('uninstall --yes mmcv') for call in calls)
    assert any('mmcv==2.1.0' in call for call in installs(calls))


def test_wheel_made_for_another_torch_is_rebuilt(setup):
    status, output, calls = setup(OPS='fail')
    assert status == 0, output
    mmcv = [call for call in calls if 'mmcv==' in call]
    assert len(mmcv) == 2
    assert '--no-cache-dir' not in mmcv[0]
    assert all(option in mmcv[1] for option in ('--no-cache-dir', '--force-reinstall', '--no-deps'))


def test_interrupted_goes_on_where_it_stopped(setup):
    status, output, calls = setup(FAIL_ON='mmsegmentation==')
    assert status == 1
    assert 'step openmmlab failed' in output
    assert 'no space left on device' in output
    assert not any('mmcv==' in call for call in installs(calls))

    status, output, calls = setup()
    assert status == 0, output
    assert not any('torch==' in call for call in installs(calls))
    assert any('mmsegmentation==' in call for call in installs(calls))


@pytest.mark.parametrize('failing', ['mmcv==', '.[tests]', 'torch=='])
def test_failed_step_is_repeated(setup, failing):
    assert setup(FAIL_ON=failing)[0] == 1
    _, _, calls = setup()
    assert any(failing in call for call in installs(calls))


def test_cuda_ops_are_compiled_by_the_nvcc_of_torch(setup, tmp_path):
    nvcc = tmp_path / 'bin/nvcc'
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release $CUDA_RELEASE, V1"\n')
    nvcc.chmod(0o755)
    status, output, calls = setup(CUDA_OPS='1', CUDA_RELEASE='12.8')
    assert status == 1
    assert f"{nvcc} does not have torch's CUDA version, 13.0" in output
    assert not any('mmcv==' in call for call in installs(calls))

    status, output, calls = setup(CUDA_OPS='1', CUDA_RELEASE='13.2')
    assert status == 0, output
    assert 'FORCE_CUDA=1 CPATH=/site/nvidia/cu13/include GPUS=all' in calls

    status, output, calls = setup(CUDA_OPS='0')
    assert status == 0, output
    assert 'FORCE_CUDA=0 CPATH= GPUS=' in calls


NO_MODULE = f"""{PYTHON_3_11}
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == 'ensurepip' else find(name)
"""
NO_HEADERS = """
import sys, sysconfig
sys.version_info = (3, 11, 7)
sysconfig.get_paths = lambda: {'include': '/nowhere'}
"""


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        (dict(PATCH='import sys; sys.version_info = (3, 9, 0)'), 'is Python 3.9'),
        (dict(PATCH='import sys; sys.version_info = (3, 13, 0)'), 'is Python 3.13'),
        (dict(PYTHON='python-of-nobody'), 'there is no python-of-nobody'),
        (dict(PYTHON='false'), 'false does not run'),
        (dict(PATCH=NO_MODULE), 'apt install python3-venv'),
        (dict(PATCH=NO_HEADERS), '/nowhere/Python.h is missing'),
        (dict(CXX='no-such-compiler'), "'no-such-compiler' is missing or fails"),
        (dict(CXX='false'), 'apt install g++'),
        (dict(FREE_KB='2097152'), 'needs 8 GB'),
        (dict(NO_GPU='0'), 'need nvcc'),
        (dict(CUDA_OPS='yes'), "not 'yes'"),
    ],
)
def test_refuses_in_one_line_before_anything_is_made(setup, tmp_path, variables, message):
    status, output, calls = setup(**variables)
    assert status == 1
    assert output.startswith('setup: ')
    assert message in output
    assert output.count('\n') == 1
    assert calls == []
    assert not (tmp_path / 'env').exists()


def test_another_python_recreates_the_environment(setup, tmp_path):
    assert setup()[0] == 0
    (tmp_path / 'env/old').touch()
    newer = tmp_path / 'bin/newer'
    newer.write_text((tmp_path / 'bin/fakepython').read_text().replace('$FAKE_VERSION', '3.12.1'))
    newer.chmod(0o755)
    status, output, _ = setup(PYTHON='newer', CXX='false')
    assert status == 1
    assert (tmp_path / 'env/old').exists()  # the checks come first
    status, output, calls = setup(PYTHON='newer')
    assert status == 0, output
    assert 'has Python 3.11.7, but 3.12.1 is requested' in output
    assert calls[0].startswith('-m venv ')
    assert not (tmp_path / 'env/old').exists()


def test_leaves_a_folder_alone_that_it_did_not_make(setup, tmp_path):
    (tmp_path / 'env').mkdir()
    (tmp_path / 'env/thesis.txt').touch()
    status, output, _ = setup()
    assert status == 1
    assert 'remove it, or choose another folder with VENV=' in output
    assert (tmp_path / 'env/thesis.txt').exists()


@pytest.mark.parametrize('script', sorted([*ROOT.glob('tools/**/*.sh'), ROOT / '.ci/run']), ids=lambda path: path.name)
def test_shell_scripts(script):
    subprocess.run(['bash', '-n', script], check=True)
    assert os.access(script, os.X_OK)
