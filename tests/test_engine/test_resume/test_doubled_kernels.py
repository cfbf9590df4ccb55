"""Resuming trainings whose checkpoint holds deformable kernels doubled."""

from functools import partial
from types import SimpleNamespace

import mmcv.ops
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import Dataset

from mmbirefnet.engine import AtomicCheckpointHook
from mmbirefnet.engine.wrap_policy import wrap_by_name
from mmbirefnet.fileio.checkpoints import DCN_VERSION
from mmbirefnet.models import DCNv2

ADAMW = dict(type='AdamW', lr=0.0, betas=(0.8, 0.9), amsgrad=True)
SGD = dict(type='SGD', lr=0.0, momentum=0.9)
STATE_DICTS = dict(state_dict='StateDict', optim_state_dict='OptimStateDict')
STATE = dict(AdamW=('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq'), SGD=('momentum_buffer',))


class Images(Dataset):
    metainfo = {}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))


class Model(BaseModel):
    """A deformable convolution between plain ones; the parameters that are not kernels of it come first and last."""

    def __init__(self, conv: type, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), conv(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1))
        nn.init.normal_(self.layers[1].conv_offset.weight, std=0.2)
        with torch.no_grad():
            self.layers[1].weight.mul_(factor)

    def forward(self, *images, mode='tensor'):
        return dict(loss=self.layers(torch.stack(images)).square().mean())


def runner_of(model: Model, work_dir, optimizer: dict, counts: int = 1, kind: type = Runner, **options):
    return kind(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(type='mmbirefnet.ResumableTrainLoop', max_epochs=1),
        optim_wrapper=dict(optimizer=dict(optimizer), accumulative_counts=counts),
        default_hooks=dict(checkpoint=dict(type='mmbirefnet.AtomicCheckpointHook', interval=1, by_epoch=False)),
        experiment_name=f'{work_dir}',
        **options,
    )


def old_and_new(tmp_path, optimizer, **options):
    """Runner that trained three iterations, and one that resumed an old training after the first of them.

    The old training is of mmcv's layer, which computes masks of sigmoid(m) and whose metadata have version 2. With a
    learning rate of 0, both compute the same function in all iterations.
    """
    new = runner_of(Model(DCNv2, 1), tmp_path / 'new', optimizer, **options)
    new.train()
    runner_of(Model(mmcv.ops.ModulatedDeformConv2dPack, 2), tmp_path / 'old', optimizer, **options).train()
    options |= dict(resume=True, load_from=str(tmp_path / 'old/iter_1.pth'))
    resumed = runner_of(Model(DCNv2, 1), tmp_path / 'resumed', optimizer, **options)
    resumed.train()
    return new, resumed


def assert_same_state(new, resumed, keys):
    for (name, parameter), other in zip(new.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, msg=name)
        expected, found = (
            runner.optim_wrapper.optimizer.state[weight] for runner, weight in ((new, parameter), (resumed, other))
        )
        for key in keys:
            assert expected[key].abs().max() > 0, (name, key)
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-9, msg=f'{name} {key}')


@pytest.mark.parametrize('optimizer', [ADAMW, SGD], ids=['adamw', 'sgd'])
def test_moments_are_those_of_the_new_parameters(tmp_path, optimizer):
    assert_same_state(*old_and_new(tmp_path, optimizer), STATE[optimizer['type']])


def test_accumulated_gradients_are_those_of_the_new_parameters(tmp_path):
    """The first of two batches of a step was done, so that the checkpoint holds its gradients."""
    assert_same_state(*old_and_new(tmp_path, ADAMW, counts=2), STATE['AdamW'])


def test_the_log_names_what_was_rescaled(tmp_path):
    old_and_new(tmp_path, ADAMW)
    log = '\n'.join(path.read_text() for path in (tmp_path / 'resumed').glob('*/*.log'))
    assert log.count('doubled 1 deformable kernels') == 1
    log = '\n'.join(path.read_text() for path in (tmp_path / 'new').glob('*/*.log'))
    assert 'doubled' not in log


def test_state_of_other_optimizers_is_named(tmp_path):
    old_and_new(tmp_path, dict(type='Adagrad', lr=0.0))
    log = '\n'.join(path.read_text() for path in (tmp_path / 'resumed').glob('*/*.log'))
    assert 'the optimizer keeps sum of these kernels, which was not rescaled' in log


@pytest.fixture
def process_group(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.skipif(torch.__version__ < '2.2', reason='FSDP of torch 2.1 needs GPUs')
def test_fsdp_halves_the_kernels_of_a_plain_checkpoint(process_group):
    old = Model(mmcv.ops.ModulatedDeformConv2dPack, 2)
    checkpoint = dict(state_dict=old.state_dict())
    policy = partial(wrap_by_name, names=['DCNv2'])
    model = FullyShardedDataParallel(Model(DCNv2, 1), auto_wrap_policy=policy, device_id=torch.device('cpu'))
    assert '_fsdp_wrapped_module.layers.1._fsdp_wrapped_module' in dict(model.named_modules())
    AtomicCheckpointHook().after_load_checkpoint(SimpleNamespace(model=model, _resume=False), checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(checkpoint['state_dict'])
    for name, value in model.state_dict().items():
        expected = old.state_dict()[name] / (2 if name == 'layers.1.weight' else 1)
        torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=name)


@pytest.mark.skipif(torch.__version__ < '2.2', reason='FSDP of torch 2.1 needs GPUs')
@pytest.mark.parametrize('version', [DCN_VERSION, 2])
def test_fsdp_resumes_and_warns_of_old_kernels(process_group, tmp_path, version):
    configs = {f'{each}_config': dict(type=f'Full{name}Config') for each, name in STATE_DICTS.items()}
    strategy = dict(
        type='mmbirefnet.ResumableFSDPStrategy',
        model_wrapper=dict(type='MMFullyShardedDataParallel', device_id='cpu', use_orig_params=True),
        state_dict_cfg=dict(state_dict_type='FULL_STATE_DICT', **configs),
    )
    options = dict(kind=FlexibleRunner, strategy=strategy)
    runner_of(Model(DCNv2, 1), tmp_path / 'first', ADAMW, **options).train()
    path = tmp_path / 'first/iter_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    for name, values in checkpoint['state_dict']._metadata.items():
        if 'layers.1' in name and 'version' in values and 'conv_offset' not in name:
            values['version'] = version
    torch.save(checkpoint, path)
    resumed = runner_of(Model(DCNv2, 1), tmp_path / 'resumed', ADAMW, resume=True, load_from=str(path), **options)
    resumed.train()
    assert resumed.iter == 3
    end, other = (torch.load(tmp_path / f'{name}/iter_3.pth', weights_only=False) for name in ('first', 'resumed'))
    if version == DCN_VERSION:
        for name, state in end['optimizer']['state'].items():
            for key in STATE['AdamW']:
                torch.testing.assert_close(other['optimizer']['state'][name][key], state[key], msg=f'{name} {key}')
    log = '\n'.join(path.read_text() for path in tmp_path.glob('*/*/*.log'))
    assert ('moments in the optimizer are not' in log) == (version < DCN_VERSION)
