"""Training steps that are replayed as CUDA graphs, on a GPU where there is one, else with recorded operators."""

import copy
from types import SimpleNamespace

import cpu_graph
import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from pico import CONFIG

from mmbirefnet.engine.hooks.cuda_graph_hook import REPEATS, CUDAGraphHook, GraphedLoss
from mmbirefnet.registry import HOOKS, MODELS

SIDE = 64
GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
# On a GPU, in float32 for Triton's kernels, whose sums of atomic operations have no fixed order.
DTYPE, TOLERANCE = (torch.float32, 1e-3) if GPU else (torch.float64, 1e-9)


@pytest.fixture
def graphs(monkeypatch):
    """The kind of graphs that the test uses."""
    if not GPU:
        return cpu_graph.install(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)

    class Counted(torch.cuda.CUDAGraph):
        replays = 0

        def replay(self):
            Counted.replays += 1
            super().replay()

    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Counted)
    return Counted


def build(**options):
    """A model with everything that has a loss: side outputs, gradient supervision, classifier."""
    config = Config.fromstring(CONFIG, '.py')
    config.merge_from_dict(options)
    config.model.neck.update(aux_classifier=True, num_classes=4)
    if not GPU:  # deformable convolutions read values on the CPU
        for part in (config.model.neck, config.model.decode_head):
            part.aspp_cfg.conv_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(config.model).train().to(DEVICE, DTYPE)


@pytest.fixture(scope='module')
def plain():
    return build()


@pytest.fixture(scope='module')
def checkpointed():
    """A model that draws random numbers again in the backward pass: for dropped paths and dropout."""
    backbone = dict(with_cp=True, drop_path_rate=0.5)
    return build(model=dict(backbone=backbone, decode_head=dict(with_cp=True)))


def batch(seed, images=2, mask_dtype=DTYPE):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images, 3, SIDE, SIDE, generator=generator)
    samples = []
    for mask in (torch.rand(images, 1, SIDE, SIDE, generator=generator) > 0.5).to(DEVICE, mask_dtype):
        label = torch.randint(-1, 4, (), generator=generator).item()
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=dict(class_label=label)))
    return inputs.to(DEVICE, DTYPE), samples


def train(model, batches, accumulate=1, autocast=False):
    """Losses of each step, gradients of each update, and the buffers at the end.

    Updates do not depend on the gradients, since training would amplify their rounding errors. Dropout draws the same
    numbers in each training.
    """
    segmentor = getattr(model, 'module', model)
    torch.manual_seed(0)
    losses, gradients = [], []
    for step, (inputs, samples) in enumerate(batches, 1):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            values = model(inputs, samples, mode='loss')
        loss, values = segmentor.parse_losses(values)
        losses.append({name: value.item() for name, value in values.items()})
        loss.backward()
        if step % accumulate == 0:
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            with torch.no_grad():
                torch._foreach_mul_(list(model.parameters()), 1.01)
            model.zero_grad()
    return losses, gradients, dict(segmentor.named_buffers())


def graphed(model):
    model = copy.deepcopy(model)
    model.loss = GraphedLoss(model)
    return model


def assert_same(one, other, tolerance=TOLERANCE):
    for ours, theirs in zip(one[0], other[0], strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()
    torch.testing.assert_close(one[2], other[2], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_a_training_is_the_same(plain, graphs, accumulate):
    """With new images, masks and classes in each step; the third step is the first replay.

    Warm-up and capture change neither running statistics nor random numbers.
    """
    batches = [batch(seed) for seed in range(9)]
    expected = train(copy.deepcopy(plain), batches, accumulate)
    assert_same(train(graphed(plain), batches, accumulate), expected)
    assert graphs.replays == 2 * (len(batches) - REPEATS + 1)
    assert len({losses['loss'] for losses in expected[0]}) == len(batches)
    counts = [value.item() for name, value in expected[2].items() if name.endswith('num_batches_tracked')]
    assert set(counts) == {len(batches)}


def test_checkpointing_repeats_the_random_numbers_of_the_forward_pass(checkpointed, graphs):
    batches = [batch(seed) for seed in range(5)]
    expected = train(copy.deepcopy(checkpointed), batches)
    assert_same(train(graphed(checkpointed), batches), expected)
    assert graphs.replays == 6


def test_a_smaller_batch_runs_without_a_graph_which_stays(plain, graphs):
    batches = [batch(seed) for seed in range(REPEATS)] + [batch(7, images=3), batch(8)]
    model = graphed(plain)
    assert_same(train(model, batches), train(copy.deepcopy(plain), batches))
    assert graphs.replays == 4
    assert model.loss.graph.kind[0][0][0] == (2, 3, SIDE, SIDE)


def test_a_new_loss_weight_leads_to_a_new_graph(plain, graphs):
    model, other = graphed(plain), copy.deepcopy(plain)
    for weight in (30.0, 1.0):
        for each in (model, other):
            each.decode_head.loss_decode[0].loss_weight = weight
        batches = [batch(seed) for seed in range(REPEATS)]
        assert_same(train(model, batches), train(other, batches))
    assert graphs.replays == 4


def test_frozen_parameters_get_no_gradient(plain, graphs):
    model = graphed(plain)
    model.backbone.requires_grad_(False)
    inputs, samples = batch(0)
    for _ in range(REPEATS):
        model.zero_grad()
        sum(model(inputs, samples, mode='loss').values()).backward()
    assert graphs.replays == 2
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in model.decode_head.conv_logits.parameters())


def test_no_graph_in_validation(plain, graphs):
    """ValLossHook calls the loss in evaluation mode."""
    model = graphed(plain)
    inputs, samples = batch(0)
    with torch.no_grad():
        for _ in range(REPEATS + 1):
            model(inputs, samples, mode='loss')
    assert graphs.replays == 0


def test_what_cannot_be_captured_runs_on_with_a_warning(plain, graphs, monkeypatch):
    """Integer masks: their labels are checked on the CPU."""
    messages = []
    monkeypatch.setattr(
        'mmbirefnet.engine.hooks.cuda_graph_hook.print_log', lambda message, *_: messages.append(message)
    )
    batches = [batch(seed, mask_dtype=torch.int64) for seed in range(2 * REPEATS)]
    assert_same(train(graphed(plain), batches), train(copy.deepcopy(plain), batches))
    (message,) = messages
    assert message.startswith('no CUDA graph of the training step')
    assert 'synchronizing' in message
    assert graphs.replays == 0


def runner_of(model, **cfg):
    return SimpleNamespace(model=model, cfg=Config(cfg))


def test_the_hook_replaces_the_loss_for_a_training(plain, graphs):
    model = copy.deepcopy(plain)
    runner, hook = runner_of(model), HOOKS.build(dict(type='mmbirefnet.CUDAGraphHook'))
    hook.before_train(runner)
    hook.before_train(runner)  # after a training that failed
    train(model, [batch(seed) for seed in range(REPEATS)])
    assert graphs.replays == 2
    hook.after_train(runner)
    train(model, [batch(0)])
    assert graphs.replays == 2


def test_data_parallel_training(checkpointed, graphs, tmp_path):
    backend = 'nccl' if GPU else 'gloo'
    torch.distributed.init_process_group(backend, init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        models = [MMDistributedDataParallel(copy.deepcopy(checkpointed)) for _ in range(2)]
        CUDAGraphHook().before_train(runner_of(models[1]))
        batches = [batch(seed) for seed in range(5)]
        expected, actual = (train(model, batches) for model in models)
    finally:
        torch.distributed.destroy_process_group()
    assert_same(actual, expected)
    assert graphs.replays == 6


def test_the_hook_without_a_gpu(plain, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    model = copy.deepcopy(plain)
    runner, hook = runner_of(model), CUDAGraphHook()
    hook.before_train(runner)
    assert 'loss' not in vars(model)
    hook.after_train(runner)


def test_what_moves_parameters_is_refused(plain):
    with pytest.raises(ValueError, match='compile=False'):
        CUDAGraphHook().before_train(runner_of(plain, compile=True))
    with pytest.raises(ValueError, match='DataParallel do not stay in place'):
        CUDAGraphHook().before_train(runner_of(torch.nn.DataParallel(plain)))


@pytest.mark.skipif(not GPU, reason='needs a GPU')
def test_mixed_precision(plain, graphs):
    batches = [batch(seed) for seed in range(REPEATS + 2)]
    expected = train(copy.deepcopy(plain), batches, autocast=True)
    assert_same(train(graphed(plain), batches, autocast=True), expected, tolerance=0.05)
    assert graphs.replays == 6
