"""The loss schedule in real trainings of a model of one parameter."""

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmbirefnet.models.losses import BCELoss, IoULoss, SSIMLoss
from mmbirefnet.registry import HOOKS

FACTORS = dict(BCELoss=0.0, IoULoss=0.5)


class OneMap(Dataset):
    metainfo = {}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1, 4, 4))


class Scale(BaseModel):
    """Remembers the weights (BCE, IoU, IoU of another head, SSIM) of each epoch's first iteration."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.losses = torch.nn.ModuleList([BCELoss(30.0), IoULoss(0.5), SSIMLoss(10.0)])
        self.other_head = IoULoss(2.0)
        self.seen = []

    def weights(self):
        bce, iou, ssim = (loss.loss_weight for loss in self.losses)
        return bce, iou, self.other_head.loss_weight, ssim

    def forward(self, inputs, mode):
        self.seen.append(self.weights())
        return {f'loss_{i}': loss(self.scale * inputs, inputs) for i, loss in enumerate(self.losses)}


def make_runner(work_dir, train_cfg, model=None, **kwargs):
    return Runner(
        model=model or Scale(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=OneMap(), batch_size=2, sampler=dict(type='DefaultSampler'), collate_fn=dict(type='default_collate')
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=f'{work_dir.name}_{len(list(work_dir.iterdir()))}',
        **kwargs,
    )


def train(work_dir, max_epochs=7, last_epochs=3, factors=FACTORS, model=None, stop_after=None, **kwargs):
    hooks = [dict(type='mmbirefnet.LossScheduleHook', last_epochs=last_epochs, factors=factors)]
    runner = make_runner(work_dir, dict(by_epoch=True, max_epochs=max_epochs), model, custom_hooks=hooks, **kwargs)
    if stop_after is not None:
        run_epoch = runner.train_loop.run_epoch

        def run_and_stop():
            run_epoch()
            runner.train_loop.stop_training = runner.epoch >= stop_after

        runner.train_loop.run_epoch = run_and_stop
    runner.train()
    return runner


EXPECTED = [(30, 0.5, 2, 10)] * 4 + [(0, 0.25, 1, 10), (0, 0.125, 0.5, 10), (0, 0.0625, 0.25, 10)]


def test_weights_of_each_epoch(tmp_path):
    runner = train(tmp_path)
    assert runner.model.seen == EXPECTED
    assert runner.model.weights() == (30, 0.5, 2, 10)  # as configured, after the training
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Epoch 5: weight of BCELoss set to 0\n' in log
    assert log.count('weight of BCELoss set') == 2  # once down, once back
    assert 'Epoch 7: weight of IoULoss set to 0.0625\n' in log


@pytest.mark.parametrize('stop_after', [2, 5, 6])
def test_resuming_changes_nothing(tmp_path, stop_after):
    first = train(
        tmp_path, stop_after=stop_after, default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1))
    )
    second = train(tmp_path, resume=True)
    assert first.model.seen == EXPECTED[:stop_after]
    assert second.model.seen == EXPECTED[stop_after:]


def test_in_a_distributed_model(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        work_dir = tmp_path / 'work'
        work_dir.mkdir()
        model = MMDistributedDataParallel(Scale())
        train(work_dir, model=model)
        assert model.module.seen == EXPECTED
    finally:
        torch.distributed.destroy_process_group()


def test_training_shorter_than_the_phase(tmp_path):
    runner = train(tmp_path, max_epochs=2, last_epochs=40)
    assert runner.model.seen == [(0, 0.25, 1, 10), (0, 0.125, 0.5, 10)]
    assert 'all 2 epochs are among the last 40' in next(tmp_path.glob('*/*.log')).read_text()


def test_a_factor_must_match_a_loss(tmp_path):
    with pytest.raises(ValueError, match='no loss MAELoss in the model, which has BCELoss, IoULoss, SSIMLoss'):
        train(tmp_path, factors=dict(MAELoss=0.9))


def test_iterations_are_refused(tmp_path):
    hooks = [dict(type='mmbirefnet.LossScheduleHook', last_epochs=1, factors=FACTORS)]
    runner = make_runner(tmp_path, dict(by_epoch=False, max_iters=2), custom_hooks=hooks)
    with pytest.raises(TypeError, match='EpochBasedTrainLoop.*got IterBasedTrainLoop'):
        runner.train()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [(dict(last_epochs=-1, factors={}), 'last_epochs'), (dict(last_epochs=1, factors=dict(BCELoss=-0.5)), 'BCELoss')],
)
def test_negative_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='mmbirefnet.LossScheduleHook', **kwargs))
