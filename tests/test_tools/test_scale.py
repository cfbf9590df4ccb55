"""mmengine's engines around BiRefNet, each by its config line: they take the step that one process takes."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from test_birefnet_runs import OVERRIDES, ROOT, run, run_tool
from torch._dynamo.utils import counters

from mmbirefnet.datasets.preparation.synthetic import write_dataset
from mmbirefnet.engine.wrap_policy import wrap_by_name
from mmbirefnet.registry import MODELS

# Without chance and without statistics of the batch. SGD moves in proportion to the gradient; Adam's first step is its
# sign, which rounding decides where a gradient is zero.
EXACT = """
norm_cfg, aspp_cfg = dict(type='mmbirefnet.FrozenBN'), dict(dropout_ratio=0.0)
model['neck'].update(norm_cfg=norm_cfg, aspp_cfg=aspp_cfg)
model['decode_head'].update(norm_cfg=norm_cfg, aspp_cfg=aspp_cfg)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=2e-2))
train_dataloader.update(batch_size=4, sampler=dict(shuffle=False))
train_cfg.update(val_interval=9)
default_hooks['checkpoint'].update(save_best=None)
load_from = 'start.pth'
"""
FSDP = f"""
_base_ = ['exact.py', '{ROOT}/configs/_base_/engine/fsdp.py']
"""
# Summed over the images of a process, so half of it for twice the images.
HALF_IOU = 'model.decode_head.loss_decode.1.loss_weight=0.25'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four images, a config for an exact step, its parameters before the step (``start.pth``)."""
    folder = tmp_path_factory.mktemp('scale')
    for _ in write_dataset(str(folder / 'data'), {'DIS-TR': 4, 'DIS-VD': 2}, (80, 96), seed=0):
        pass
    (folder / 'exact.py').write_text(OVERRIDES + EXACT)
    (folder / 'fsdp.py').write_text(FSDP)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build(folder).state_dict()), folder / 'start.pth')
    return folder


def build(folder):
    return MODELS.build(Config.fromfile(folder / 'exact.py').model)


@pytest.fixture
def train(tool, folder, monkeypatch):
    """Trains for an epoch of four images in this process; the runner and the state dict that it saved."""
    monkeypatch.chdir(folder)

    def command(name, *options):
        arguments = ['--work-dir', name, '--cfg-options', f'data_root={folder}/data', *options]
        return tool('train', 'exact.py', *arguments), parameters(folder / name / 'epoch_1.pth')

    return command


def parameters(checkpoint):
    return torch.load(checkpoint)['state_dict']


@pytest.fixture
def reference(train, folder):
    """Parameters after one step of four images in one process, with half the IoU weight."""
    if not (folder / 'one/epoch_1.pth').exists():
        runner, _ = train('one', HALF_IOU)
        assert runner.iter == 1
    after, before = parameters(folder / 'one/epoch_1.pth'), parameters(folder / 'start.pth')
    moved = [key for key in after if (after[key] - before[key]).abs().max() > 1e-4]
    assert len(moved) > 120
    return after


def difference(first, second):
    assert list(first) == list(second)
    return max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.soak
def test_ddp_steps_like_one_process(folder, reference):
    options = ['--work-dir', 'ddp', '--cfg-options', 'train_dataloader.batch_size=2']
    run(folder, ROOT / 'tools/dist_train.sh', 'exact.py', 2, *options)
    assert difference(parameters(folder / 'ddp/epoch_1.pth'), reference) < 1e-5


@pytest.mark.soak
@pytest.mark.skipif(torch.__version__ < '2.2', reason='FSDP of torch 2.1 needs GPUs')
def test_fsdp_steps_like_one_process_and_its_checkpoint_is_whole(folder, reference):
    options = ['--work-dir', 'fsdp', '--cfg-options', 'train_dataloader.batch_size=2']
    run(folder, ROOT / 'tools/dist_train.sh', 'fsdp.py', 2, *options)
    saved = parameters(folder / 'fsdp/epoch_1.pth')
    build(folder).load_state_dict(saved)
    assert difference(saved, reference) < 1e-5
    log = run_tool(folder, 'tools/test.py', 'fsdp.py', 'fsdp/epoch_1.pth', '--work-dir', 'fsdp_test')
    assert 'wFmeasure' in log


def test_fsdp_wraps_the_blocks(folder):
    policy = Config.fromfile(folder / 'fsdp.py').strategy.model_wrapper.auto_wrap_policy
    modules = dict(build(folder).named_modules())
    units = [name for name, module in modules.items() if wrap_by_name(module, False, 0, policy.names)]
    assert {modules[name].__class__.__name__ for name in units} == set(policy.names)
    assert not {'neck', 'decode_head', 'backbone'} & set(units)
    assert all(wrap_by_name(module, True, 0, policy.names) for module in modules.values())


def test_fsdp_needs_processes(tool, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match='tools/dist_train.sh'):
        tool('train', 'fsdp.py')


@pytest.mark.soak
def test_accumulated_batches_step_like_their_sum(train, reference):
    runner, after = train('accumulate', 'train_dataloader.batch_size=2', 'optim_wrapper.accumulative_counts=2')
    assert runner.iter == 2
    assert difference(after, reference) < 1e-5


@pytest.mark.soak
def test_iou_weighs_more_in_a_larger_batch(train, reference):
    """What the halved weight is for."""
    _, after = train('unscaled')
    assert difference(after, reference) > 1e-4


@pytest.mark.soak
@pytest.mark.skipif(torch.__version__ < '2.2', reason='torch 2.1 cannot compile a step that is watched')
def test_compiled_step(train):
    """Of a model with fewer parts, since tracing takes the time."""
    channels = 'in_channels=[8,16,32,64]'
    parts = ['multi_scale_input=False', f'neck.{channels}', f'decode_head.{channels}', 'decode_head.aspp_cfg=None']
    fewer = [f'model.{part}' for part in [*parts, 'decode_head.inward_reference=False']]
    _, expected = train('uncompiled', *fewer)
    runner, after = train('compiled', *fewer, 'compile.backend=eager')
    assert counters['stats']['unique_graphs'] > 0
    assert runner.iter == 1
    assert difference(after, expected) < 1e-5


@HOOKS.register_module()
class KeepParametersHook(Hook):
    """Keeps the parameters that each step leaves."""

    def before_train(self, runner):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append(copy.deepcopy(runner.model.state_dict()))


@pytest.mark.soak
def test_checkpoint_holds_the_ema(train, tool, folder, monkeypatch):
    """The average that its momentum says is what tools/test.py takes from the checkpoint."""
    ema = ['default_hooks.ema.type=EMAHook', 'default_hooks.ema.momentum=0.25']
    keep = 'default_hooks.keep.type=mmengine.KeepParametersHook'
    runner, saved = train('ema', *ema, keep, 'train_dataloader.batch_size=2')
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, KeepParametersHook))
    first, second = hook.states
    # mmengine's average begins as a copy, after the first step.
    for key, value in second.items():
        torch.testing.assert_close(saved[key], 0.75 * first[key] + 0.25 * value if value.is_floating_point() else value)
    assert difference(saved, second) > 1e-4

    tested = {}
    for name, extra in (('plain', []), ('with_hook', ['--cfg-options', *ema])):
        arguments = ['ema/epoch_1.pth', '--work-dir', f'test_{name}', '--out', f'maps_{name}']
        monkeypatch.setenv('MMBIREFNET_DATA', str(folder / 'data'))
        tested[name] = tool('test', 'exact.py', *arguments, *extra).model.state_dict()
        assert difference(tested[name], saved) == 0
    maps = [sorted((folder / f'maps_{name}').rglob('*.png')) for name in tested]
    assert len(maps[0]) == 2
    assert [path.read_bytes() for path in maps[0]] == [path.read_bytes() for path in maps[1]]


@pytest.mark.parametrize(
    ('rule', 'options', 'lr'),
    [
        ('sqrt', ['train_dataloader.batch_size=1'], 0.5e-3),
        ('sqrt', ['train_dataloader.batch_size=2', 'optim_wrapper.accumulative_counts=2'], 1e-3),
        ('linear', ['train_dataloader.batch_size=2'], 1e-3 / 16),
    ],
)
@pytest.mark.soak
def test_learning_rate_follows_the_batch(tool, folder, monkeypatch, rule, options, lr):
    """base_batch_per_gpu 4 and base_batch_size 32, as in the schedules."""
    schedule = Config.fromfile(ROOT / 'configs/_base_/schedules/adamw_500e.py').auto_scale_lr
    monkeypatch.chdir(folder)
    base = [f'auto_scale_lr.{key}={value}' for key, value in schedule.items()]
    arguments = [f'data_root={folder}/data', 'optim_wrapper.optimizer.lr=1e-3', *base, *options]
    runner = tool('train', 'exact.py', '--work-dir', 'lr', '--auto-scale-lr', rule, '--cfg-options', *arguments)
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(lr)] * len(runner.optim_wrapper.get_lr()['lr'])


def test_learning_rate_for_an_unknown_batch(tool, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match='auto_scale_lr.base_batch_per_gpu'):
        tool('train', 'exact.py', '--auto-scale-lr', 'sqrt')
