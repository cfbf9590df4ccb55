"""FuseHook in a test loop: what it exchanges, when, and what it puts back."""

import pytest
import torch
from golden import model_config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.engine import FuseHook
from mmbirefnet.models import BiRefNet, SoftMapTTAModel
from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)
CHANNELS = (16, 32, 64, 128)


class Images(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.zeros(3, 32, 32))


class Wrapper(nn.Module):
    """As DistributedDataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def birefnet() -> BiRefNet:
    return MODELS.build(model_config(arch=ARCH, channels=CHANNELS, aspp_cfg=None)).eval()


@pytest.mark.parametrize('wrap', [lambda model: model, Wrapper, lambda model: Wrapper(SoftMapTTAModel(module=model))])
def test_fuses_the_innermost_model_and_puts_it_back(wrap):
    class FakeRunner:
        model = wrap(birefnet())

    def innermost(model):
        return innermost(model.module) if hasattr(model, 'module') else model

    plain, hook = innermost(FakeRunner.model), FuseHook()
    hook.before_test_epoch(FakeRunner)
    assert innermost(FakeRunner.model).fused
    assert innermost(FakeRunner.model) is not plain
    hook.after_test_epoch(FakeRunner)
    assert innermost(FakeRunner.model) is plain
    assert not plain.fused


def test_other_models_are_left_alone():
    class FakeRunner:
        model = nn.Conv2d(1, 1, 1)

    before = FakeRunner.model
    hook = FuseHook()
    hook.before_test_epoch(FakeRunner)
    assert FakeRunner.model is before
    hook.after_test_epoch(FakeRunner)
    assert FakeRunner.model is before


def test_in_a_runner_it_fuses_what_the_checkpoint_and_other_hooks_put_in(tmp_path):
    """EMAHook exchanges weights in the same event."""
    saved, plain, tested = birefnet(), birefnet(), []
    torch.save(dict(state_dict=saved.state_dict()), tmp_path / 'checkpoint.pth')

    class AverageHook(Hook):
        def before_test_epoch(self, runner):
            plain.backbone.norm0.bias.data.fill_(7)

    class SpyHook(FuseHook):
        def after_test_epoch(self, runner, metrics=None):
            tested.append(runner.model)
            super().after_test_epoch(runner, metrics)

    runner = Runner(
        plain,
        work_dir=str(tmp_path),
        test_dataloader=torch.utils.data.DataLoader(Images()),
        test_cfg=dict(),
        test_evaluator=Evaluator([]),
        load_from=str(tmp_path / 'checkpoint.pth'),
        custom_hooks=[SpyHook(), AverageHook()],
        default_hooks=dict(checkpoint=None),
        log_level='ERROR',
    )
    runner.test()
    (fused,) = tested
    assert fused.fused
    assert runner.model is plain
    assert torch.equal(fused.backbone.patch_embed.proj.bias, saved.backbone.patch_embed.proj.bias)
    assert (fused.backbone.norm0.bias == 7).all()
