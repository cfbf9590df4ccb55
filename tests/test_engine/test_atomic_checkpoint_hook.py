"""Checkpoints after kills at each step of writing them, on full disks, and with damaged files in the folder."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from processes import run_forked
from small_training import RandomData, make_runner

from mmbirefnet.engine.hooks import AtomicCheckpointHook
from mmbirefnet.engine.resume import checkpoints as module
from mmbirefnet.engine.resume.checkpoints import newest_checkpoint, save_as_latest

pytestmark = pytest.mark.usefixtures('no_fsync')


@pytest.fixture
def warnings(monkeypatch):
    """What is logged about damaged files."""
    messages = []
    monkeypatch.setattr(module, 'print_log', lambda message, *args: messages.append(message))
    return messages


class Saver:
    """What saving needs of a runner; its checkpoints hold a number."""

    __class__ = Runner  # mmengine's, which saves on one rank

    def __init__(self, work_dir):
        self.work_dir = str(work_dir)

    def save_checkpoint(self, out_dir, filename, number):
        meta = dict(epoch=0, iter=number, time=f'20260101_{number:06d}')
        state, hub = dict(w=torch.full((1000,), number)), dict(log_scalars={}, runtime_info={}, resumed_keys={})
        content = dict(meta=meta, state_dict=state, message_hub=hub, optimizer=dict(state={}, param_groups=[]))
        torch.save(content, os.path.join(out_dir, filename))

    def save(self, number, name=None):
        return save_as_latest(self, self.work_dir, name or f'iter_{number}.pth', number=number)


def number_of(path):
    content = torch.load(path)
    assert (content['state_dict']['w'] == content['meta']['iter']).all()
    return content['meta']['iter']


def killed_at(step, function):
    """Runs a function in a process of its own, which ends at its ``step``-th call that changes files."""
    calls = 0

    def mortal(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os._exit(9)
            return original(*args, **kwargs)

        return call

    def run():
        for name in ('fsync', 'replace', 'unlink'):
            setattr(os, name, mortal(getattr(os, name)))
        Path.unlink, Path.write_text = mortal(Path.unlink), mortal(Path.write_text)
        torch.save = mortal(half_saved(torch.save, step))
        function()
        os._exit(0)

    return run_forked(run)


def half_saved(save, step):
    """``torch.save`` that dies in the middle of the file, if it is the step to die at."""

    def call(content, path):
        save(content, path)
        if step == 0:
            os.truncate(path, os.path.getsize(path) // 2)
            os._exit(9)

    return call


@pytest.mark.parametrize('name', ['same.pth', None], ids=['same name', 'other name'])
def test_kill_at_any_step_leaves_a_checkpoint(tmp_path, name):
    saver, seen = Saver(tmp_path), []
    for step in range(100):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        saver.save(1, name)
        status = killed_at(step, lambda: saver.save(2, name))
        last = (tmp_path / 'last_checkpoint').read_text()
        seen.append((number_of(last), number_of(newest_checkpoint(tmp_path))))
        if status == 0:
            break
        assert status == 9
    assert step > 6
    assert seen[0] == (1, 1)
    assert seen[-1] == (2, 2)
    assert {(1, 1), (2, 2)} <= set(seen) <= {(1, 1), (1, 2), (2, 2)}
    assert seen == sorted(seen)


@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_checkpoint_is_passed_over(tmp_path, warnings, share):
    saver = Saver(tmp_path)
    for number in (1, 2, 3):
        path = saver.save(number)
    os.truncate(path, int(os.path.getsize(path) * share))
    assert number_of(newest_checkpoint(tmp_path)) == 2
    (warning,) = warnings
    assert warning.startswith(f'{path}: truncated or damaged, not resumed from')


def test_flipped_byte_of_a_tensor_is_noticed(tmp_path, warnings):
    saver = Saver(tmp_path)
    saver.save(1)
    path = Path(saver.save(2))
    content = bytearray(path.read_bytes())
    content[content.index((2).to_bytes(8, 'little') * 100)] ^= 1
    path.write_bytes(content)
    assert number_of(newest_checkpoint(tmp_path)) == 1
    assert 'checksum' in warnings[0]


def test_choice_of_the_newest(tmp_path, warnings):
    saver = Saver(tmp_path)
    assert newest_checkpoint(tmp_path) is None
    for number in (5, 7, 6):  # files of later numbers that were written earlier
        saver.save(number)
    torch.save(dict(meta=dict(time='2027'), state_dict={}, message_hub={}), tmp_path / 'best_score_epoch_9.pth')
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'weights.pth')
    assert number_of(newest_checkpoint(tmp_path)) == 7
    moved = shutil.move(tmp_path, tmp_path.with_name('moved'))
    assert newest_checkpoint(moved).startswith(str(moved))
    for path in moved.glob('*.pth'):
        os.truncate(path, 10)
    with pytest.raises(ValueError, match='all checkpoints to resume from are damaged.*move them away'):
        newest_checkpoint(moved)


def test_full_disk_keeps_the_former_and_says_so(tmp_path, monkeypatch):
    saver = Saver(tmp_path)
    kept = saver.save(1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match=f'No space left on device: .*iter_2.pth was not written .*{kept}') as error:
            saver.save(2)
    assert error.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_1.pth', 'last_checkpoint']
    assert number_of(saver.save(2)) == 2


@pytest.mark.parametrize(
    'wrong',
    [
        dict(meta='text'),
        dict(meta=[1]),
        dict(meta=None),
        dict(meta=dict(iter='3', time='x')),
        dict(meta=dict(iter=3, time=7)),
        dict(message_hub=[]),
        dict(state_dict=3),
    ],
)
def test_checkpoints_without_training_position_are_skipped(tmp_path, warnings, wrong):
    Saver(tmp_path).save(2)
    content = dict(meta=dict(iter=3, time='20260101_000003'), state_dict={}, message_hub={}, optimizer={})
    torch.save(content | wrong, tmp_path / 'iter_3.pth')
    assert number_of(newest_checkpoint(tmp_path)) == 2
    assert warnings[0].startswith(f'{tmp_path}/iter_3.pth: truncated or damaged, not resumed from (its m')
    assert not module.is_training_checkpoint(tmp_path / 'iter_3.pth')


class TwoSets(RandomData):
    """Images of sets A and B, with maps and masks to score."""

    metainfo = dict(sets=('A', 'B'))

    def __getitem__(self, index):
        item = super().__getitem__(index)
        sample = item['data_samples']
        sample.set_metainfo(dict(set_name='AB'[index]))
        sample.gt_sem_seg = PixelData(data=torch.eye(4)[None])
        sample.seg_logits = PixelData(data=torch.linspace(0, [0.5, 1][index], 16).view(1, 4, 4))
        return item


class Joined(torch.utils.data.ConcatDataset):
    metainfo = {}


def trained(tmp_path, save_best, dataset=None, prefix=None):
    options = dict(interval=1, save_best=save_best, greater_keys=['Smeasure', 'wFmeasure'], less_keys=['MAE'])
    runner = make_runner(tmp_path, checkpoint=options, train_cfg=dict(max_epochs=1, val_interval=1))
    runner._val_dataloader['dataset'] = dataset or TwoSets(2)
    runner._val_evaluator = [dict(type='mmbirefnet.DichotomousMetric', measures=['MAE', 'Smeasure'], prefix=prefix)]
    try:
        runner.train()
    finally:
        assert bool(runner.model.seen) == (runner.iter > 0)
    hub = runner.message_hub
    return {path.name for path in tmp_path.glob('best*')}, hub.get_info('best_score')


@pytest.mark.parametrize(
    ('save_best', 'prefix', 'keys'),
    [
        ('MAE', None, ['A/MAE', 'B/MAE']),  # the mean of the sets
        ('B/MAE', None, ['B/MAE']),
        ('MAE', 'val', ['val/A/MAE', 'val/B/MAE']),
        ('val/A/Smeasure', 'val', ['val/A/Smeasure']),
    ],
)
def test_best_of_several_sets(tmp_path, monkeypatch, save_best, prefix, keys):
    logged = {}
    report = AtomicCheckpointHook.after_val_epoch

    def note(self, runner, metrics):
        logged.update(metrics)
        report(self, runner, metrics)

    monkeypatch.setattr(AtomicCheckpointHook, 'after_val_epoch', note)
    files, score = trained(tmp_path, save_best, prefix=prefix)
    assert files == {f'best_{save_best.replace("/", "_")}_epoch_1.pth'}
    assert score == pytest.approx(sum(logged[key] for key in keys) / len(keys))


@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize('save_best', ['wFmeasure', 'C/MAE'])
def test_save_best_is_checked_before_the_training(tmp_path, save_best, joined):
    one = TwoSets(2)
    one.metainfo = dict(sets=('A',))
    other = TwoSets(2)
    other.metainfo = dict(sets=('B',))
    dataset = Joined([one, other]) if joined else None
    message = f'save_best={save_best}: the validation returns A/MAE, A/Smeasure, B/MAE, B/Smeasure. Fix'
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, save_best, dataset)


def test_rule_depends_on_the_measure_not_on_the_set_name():
    keys = dict(greater_keys=['mBA', 'wFmeasure'], less_keys=['MAE'])
    hook = AtomicCheckpointHook(save_best=['Samba/MAE', 'MAE-set/wFmeasure'], **keys)
    assert hook.rules == ['less', 'greater']
    assert hook.key_indicators == ['Samba/MAE', 'MAE-set/wFmeasure']


def test_a_validation_alone_returns_its_metrics(tmp_path):
    options = dict(interval=1, save_best='score', rule='greater')
    assert make_runner(tmp_path, checkpoint=options).val() == dict(score=2)
    assert not list(tmp_path.glob('*.pth'))


def test_disk_space_is_checked_before_the_training(tmp_path, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)
    size = 4 * 3 * (40 + 8 + 5) + 4 * 8 + 8  # Adam's three numbers a parameter, and the buffers of batch norm
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=2 * size - 1))
    with pytest.raises(OSError, match=rf'{tmp_path}: a checkpoint takes about 0 MiB.* two must fit. Fix: .*--work-dir'):
        make_runner(tmp_path).train()
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=2 * size))
    runner = make_runner(tmp_path / 'b')
    runner.train()
    assert (
        'max_keep_ckpts=2 are kept. Fix: free disk space' in Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    )


@pytest.mark.parametrize(('measure', 'rule'), [('MAE', 'greater'), ('B/Smeasure', 'less')])
def test_a_rule_that_keeps_the_worst_is_refused(tmp_path, measure, rule):
    options = dict(interval=1, save_best=measure, rule=rule)
    runner = make_runner(tmp_path, checkpoint=options)
    runner._val_dataloader['dataset'] = TwoSets(2)
    runner._val_evaluator = [dict(type='mmbirefnet.DichotomousMetric', measures=['MAE', 'Smeasure'])]
    right = {'greater': 'less', 'less': 'greater'}[rule]
    message = f'save_best={measure} with rule={rule} would keep the worst.*Fix: rule={right}'
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('metric', 'message'),
    [
        (dict(type='IoUMetric'), 'returns aAcc, mIoU, mAcc. Fix'),
        (dict(type='IoUMetric', iou_metrics=['mFscore'], prefix='v'), 'returns v/aAcc, v/mFscore, v/mPrecision'),
        (dict(type='mmbirefnet.DichotomousMetric', format_only=True, output_dir='maps'), 'returns nothing. Fix'),
    ],
)
def test_save_best_is_checked_against_other_metrics(tmp_path, metric, message):
    options = dict(interval=1, save_best='mIou', rule='greater')
    runner = make_runner(tmp_path, checkpoint=options)
    runner._val_evaluator = [metric]
    with DefaultScope.overwrite_default_scope('mmseg'), pytest.raises(ValueError, match=f'save_best=mIou: .*{message}'):
        runner.train()
    assert runner.iter == 0


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A checkpoint of a training."""
    folder = tmp_path_factory.mktemp('whole')
    make_runner(folder, train_cfg=dict(max_epochs=1)).train()
    return torch.load(folder / 'iter_5.pth')


@pytest.mark.parametrize(
    ('part', 'value', 'reason'),
    [
        ('meta', {}, 'its meta has no valid epoch'),
        ('meta', dict(epoch=1, iter=-5), 'its meta has no valid epoch'),
        ('meta', dict(epoch=1, iter=5, seed='seven'), 'its meta has a time or seed'),
        ('optimizer', None, 'its optimizer is no dict'),
        ('optimizer', {}, 'its optimizer has no param_groups'),
        ('message_hub', dict(log_scalars={}), 'its message_hub lacks'),
        ('param_schedulers', 'linear', 'its param_schedulers are no dicts'),
        ('accumulated_gradients', {'layers.0.weight': 'none'}, 'its accumulated_gradients are no tensors'),
    ],
)
def test_parts_that_cannot_be_resumed_from(tmp_path, warnings, whole, part, value, reason):
    torch.save(whole, tmp_path / 'iter_4.pth')
    torch.save({**whole, part: value}, tmp_path / 'iter_5.pth')
    runner = make_runner(tmp_path, resume=True, train_cfg=dict(max_epochs=1))
    runner.train()
    assert runner._load_from == str(tmp_path / 'iter_4.pth')
    assert any(f'iter_5.pth: truncated or damaged, not resumed from ({reason}' in warning for warning in warnings)


def test_a_damaged_state_dict_is_named(tmp_path, whole):
    for name, state in dict(none=None, numbers={'layers.0.weight': 1}).items():
        path = tmp_path / f'{name}.pth'
        torch.save({**whole, 'state_dict': state}, path)
        with pytest.raises(ValueError, match=f'{name}.pth: expected named parameters'):
            make_runner(tmp_path / name, load_from=str(path)).train()
