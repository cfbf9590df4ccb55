"""The environment report, in a sound environment and in broken ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmbirefnet.utils import collect_env

ROOT = Path(__file__).parents[2]


def run_report(*paths):
    environment = {'PYTHONPATH': ':'.join(map(str, [*paths, ROOT])), 'PATH': '/usr/bin:/bin'}
    command = [sys.executable, '-m', 'mmbirefnet.utils.collect_env']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sound_environment():
    import mmcv
    import torch

    output = run_report()
    assert re.search(rf'^torch +{re.escape(torch.__version__)} in ', output, re.M)
    assert re.search(rf'^mmcv +{re.escape(mmcv.__version__)} in ', output, re.M)
    assert re.search(r"^mmcv's DCNv2 on the CPU +works$", output, re.M)
    assert re.search(r'^versions fit +yes$', output, re.M)
    if torch.cuda.is_available():
        assert re.search(r"^mmcv's DCNv2 on the GPU +works$", output, re.M)


def test_runs_where_mmcv_has_no_ops_and_torchvision_is_broken(tmp_path):
    for name in ('mmcv', 'torchvision'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'version.py').write_text("__version__ = '2.1.0'\n")
    (tmp_path / 'mmcv/__init__.py').write_text("__version__ = '2.1.0'\n")
    (tmp_path / 'torchvision/__init__.py').write_text("raise RuntimeError('operator nms\\nis not there')\n")
    output = run_report(tmp_path)
    assert re.search(r'^torchvision +broken .*RuntimeError: operator nms is not there$', output, re.M)
    assert re.search(r"^mmcv's DCNv2 on the CPU +fails: ImportError: mmcv 2.1.0.* has no compiled ops", output, re.M)
    mends = output.partition('To mend:')[2]
    assert re.search(r'^ +torchvision: pip install torch torchvision', mends, re.M)
    assert re.search(r"^ +mmcv's DCNv2 on the CPU: .*--no-build-isolation .*mmcv==2.1.0$", mends, re.M)


def test_probe_tells_missing_from_broken(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(collect_env.PACKAGES, 'absent_package', ('only for this test', 'pip install it'))
    monkeypatch.setitem(collect_env.PACKAGES, 'half_package', ('only for this test', 'pip install it'))
    (tmp_path / 'half_package.py').write_text('import absent_package\n')
    absent, half = collect_env.probe('absent_package'), collect_env.probe('half_package')
    assert (absent.found, absent.mend) == ('missing (only for this test)', 'pip install it')
    assert "No module named 'absent_package'" in half.found
    assert half.mend == collect_env.SEE_ERROR


def test_deform_conv_notices_wrong_values(monkeypatch):
    import mmcv.ops

    class Wrong(mmcv.ops.ModulatedDeformConv2dPack):
        def forward(self, x):
            return super().forward(x) + 1

    assert collect_env.deform_conv('cpu') == 'works'
    monkeypatch.setattr(mmcv.ops, 'ModulatedDeformConv2dPack', Wrong)
    with pytest.raises(RuntimeError, match='DCNv2 is off by 1'):
        collect_env.deform_conv('cpu')
