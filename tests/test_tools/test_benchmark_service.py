"""The throughput that the tool prints."""

import os
import re
import subprocess
import sys

import pytest
from processes import ROOT

CONFIG = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'


@pytest.mark.soak
def test_rates_and_their_ratios():
    command = [sys.executable, ROOT / 'tools/analysis_tools/benchmark_service.py', CONFIG, '--device', 'cpu']
    command += ['--clients', '4', '--images', '12', '--batches', '1', '4']
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    form = r'batch (\d): ([\d.]+) images/s \(([\d.]+)x\), (\d+) ms of CPU time per image \(([\d.]+)x\)'
    rows = [tuple(map(float, row)) for row in re.findall(form, done.stdout)]
    assert [row[0] for row in rows] == [1, 4]
    assert rows[0][2] == rows[0][4] == 1
    assert rows[1][2] == pytest.approx(rows[1][1] / rows[0][1], rel=0.02)
    assert rows[1][4] < 1  # the model shares its overhead among the images of a batch
