"""tools/analysis_tools/benchmark.py on models whose time, memory and work are known."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from mmengine.model import BaseModel
from tool_module import load_tool
from torch import nn

from mmbirefnet.models import DCNv2
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/analysis_tools/benchmark.py'
TINY = """
_base_ = '{}'
channels = [16, 32, 64, 128]
aspp = dict(branch_channels=16)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbirefnet.SwinTransformer',
        arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
    ),
    neck=dict(in_channels=channels, aspp_cfg=aspp),
    decode_head=dict(in_channels=channels, aspp_cfg=dict(_delete_=True, **aspp)),
)
"""
OPTIMIZER = "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))\n"


class Sleep(nn.Module):
    def forward(self, x):
        time.sleep(0.05)
        return x


@MODELS.register_module()
class ToyModel(BaseModel):
    """A deformable convolution, 50 ms of sleep and 256 MiB of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DCNv2(3, 5, 3, padding=1)
        self.sleep = Sleep()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.sleep(self.conv(inputs))
        memory = torch.ones(2**26)
        self.resident = psutil.Process().memory_info().rss
        del memory
        return dict(loss=x.mean()) if mode == 'loss' else x


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def toy(tool, tmp_path):
    """Steps of the toy model on two images of 8x16 pixels."""
    path = tmp_path / 'toy.py'
    path.write_text(OPTIMIZER + "default_scope = 'mmbirefnet'\nmodel = dict(type='ToyModel')\n")

    def make(*options):
        words = [str(path), '--size', '8', '16', '--batch-size', '2', *options]
        return tool.Steps(tool.make_parser().parse_args(words))

    return make


@pytest.mark.parametrize('dcn', ['mmcv', 'torch'])
def test_inference(toy, dcn):
    steps = toy('--dcn', dcn)
    assert steps.model.conv.backend == dcn
    before = steps.model.conv.weight.clone()
    start = time.perf_counter()
    assert 0.05 <= steps() <= time.perf_counter() - start
    resident = steps.model.resident  # before libraries that counting the work imports
    result = steps.finish()
    pixels, taps = 2 * 8 * 16, 3 * 9
    # Offsets and masks of nine taps, and the deformable product itself, two operations each.
    assert result['flops'] == 2 * pixels * taps * (27 + 5)
    assert result['parameters'] == taps * (27 + 5) + 27 + 5
    # The kernel counts some pages late.
    assert -(2**24) < result['peak_memory'] - resident < 2**29
    assert result['modules'].keys() == {'conv', 'conv.conv_offset', 'sleep'}
    assert 0.05 <= result['modules']['sleep'] <= time.perf_counter() - start
    assert torch.equal(steps.model.conv.weight, before)


def test_training(toy):
    steps = toy('--mode', 'train')
    before = steps.model.conv.weight.clone()
    steps()
    assert not torch.equal(steps.model.conv.weight, before)
    result = steps.finish()
    pixels, taps = 2 * 8 * 16, 3 * 9
    # Backward: gradients of the kernels, of the columns, and of the offsets; the image itself needs none.
    forward = 2 * pixels * taps * (27 + 5)
    assert result['flops'] == 2 * forward + 2 * pixels * taps * 5
    assert {'forward', 'backward', 'optimizer', 'sleep'} <= result['modules'].keys()
    assert result['modules']['forward'] >= 0.05


def test_data(tool, tiny_config, tiny_data):
    words = [str(tiny_config), '--mode', 'data', '--batch-size', '3', '--cfg-options', f'data_root={tiny_data}']
    batches = tool.Batches(tool.make_parser().parse_args(words))
    # Four images, over and over.
    assert [len(next(batches.batches)['inputs']) for _ in range(4)] == [3, 1, 3, 1]
    assert batches() > 0


def test_summary_has_the_median_time_and_rate(tool):
    args = tool.make_parser().parse_args(['x.py', '--batch-size', '4'])
    assert tool.summarize([1.0, 2.0, 9.0], {}, args)['latency'] == 2.0
    assert tool.summarize([1.0, 2.0, 9.0], {}, args)['images_per_second'] == 2.0
    args = tool.make_parser().parse_args(['x.py', '--batch-size', '4', '--mode', 'data'])
    assert tool.summarize([1.0, 2.0, 9.0], {}, args)['images_per_second'] == 1.0


def test_further_variants_and_their_ratios(tool, monkeypatch, capsys):
    options = [(True, 'torch', 2), (False, 'mmcv', 2), (True, 'mmcv', 2)]
    measured = [
        dict(peak_memory=1, cpu_seconds=2),
        dict(peak_memory=4, cpu_seconds=6),
        dict(peak_memory=2, cpu_seconds=1),
    ]
    seconds = [1.0, 2.0], [2.0, 6.0], [0.5, 0.5]

    def measure(variants):
        assert [(args.fused, args.dcn, args.runs) for args in variants] == options
        return [tool.summarize(*each) for each in zip(seconds, measured, variants)]

    monkeypatch.setattr(tool, 'measure', measure)
    words = ['--fused', '--dcn', 'torch', '--runs', '2', '--versus=--plain --dcn mmcv', '--versus=--dcn mmcv']
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'x.py', *words])
    tool.main()
    out = capsys.readouterr().out
    assert 'the first is 2.50 times as fast (3.00 by CPU time), in 0.25 times the memory' in out
    assert 'the first is 0.38 times as fast (0.50 by CPU time), in 0.50 times the memory' in out


def test_slowdown_of_parallel_copies(tool, monkeypatch, capsys):
    """A step takes 1 s alone, 2 and 3 s where two are under way at once, and 5 s more while it warms up."""
    copies = []

    class Copy:
        def __init__(self, slowdown):
            self.slowdown, self.steps, self.asked = slowdown, 0, False

        def send(self, word):
            self.asked, self.word = True, word

        def recv(self):
            if self.word == 'finish':
                return dict(peak_memory=1)
            if self.asked:  # the first whose answer is awaited
                at_once = [copy for copy in copies if copy.asked]
                for copy in at_once:
                    copy.asked, copy.steps = False, copy.steps + 1
                    copy.seconds = (copy.slowdown if len(at_once) > 1 else 1) + (5 if copy.steps <= 2 else 0)
            return float(self.seconds), 0.5

    @contextmanager
    def processes(variants):
        copies.extend(Copy(slowdown) for slowdown in (2, 3))
        assert len(variants) == 2
        yield copies

    monkeypatch.setattr(tool, 'processes', processes)
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'x.py', '--company', '2', '--runs', '3', '--json'])
    tool.main()
    (variant,) = json.loads(capsys.readouterr().out)['variants']
    assert variant['seconds'] == [1, 1, 1]
    assert variant['company'] == dict(processes=2, seconds=[[2, 2, 2], [3, 3, 3]], ratio=2.5)
    copies.clear()
    monkeypatch.setattr(sys, 'argv', sys.argv[:-1])
    tool.main()
    assert '2 at once    2.0000, 3.0000 s each, 2.50 times one alone' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--mode', 'train', '--fused'], '--fused: a fused model is for inference'),
        (['--runs', '0'], 'expected 1 or more'),
        (['--company', '1'], '--company: expected 2 or more'),
        (['--company', '2', '--versus=--plain'], '--company: expected 2 or more processes, without --versus'),
        (['--cuda-graph'], '--cuda-graph: only for inference and training with --device cuda'),
        (['--versus=--mode train', '--fused'], '--fused: a fused model is for inference'),
    ],
)
def test_wrong_options_are_errors(tool, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'x.py', *words])
    with pytest.raises(SystemExit):
        tool.main()
    assert message in capsys.readouterr().err


@pytest.mark.soak
def test_versus_compares_two_variants(tmp_path):
    base = ROOT / 'configs/birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py'
    (tmp_path / 'tiny.py').write_text(TINY.format(base))
    words = ['tiny.py', '--size', '32', '64', '--runs', '2', '--threads', '1', '--fused', '--versus=--plain', '--json']
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, str(TOOL), *words], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    fused, plain = report['variants']
    assert [fused['options']['fused'], plain['options']['fused']] == [True, False]
    assert fused['parameters'] < plain['parameters']
    assert 0 < fused['flops'] < plain['flops']
    assert fused['modules']['backbone'] > 0
    assert len(fused['seconds']) == len(plain['seconds']) == 2
    assert plain['versus_first']['speedup'] > 0
    assert plain['versus_first']['cpu_ratio'] == plain['cpu_seconds'] / fused['cpu_seconds']
