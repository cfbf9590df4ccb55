"""Forward passes that are replayed as CUDA graphs, on a GPU where there is one, else with a graph of this file."""

import weakref
from contextlib import contextmanager, nullcontext

import pytest
import torch

from mmbirefnet.apis.cuda_graph import REPEATS, GraphedForward
from mmbirefnet.apis.torch_backend import TorchBackend
from mmbirefnet.utils.cuda_graph import capture

X = torch.arange(6.0).view(2, 3)


class Recorder:
    """A forward pass that counts its calls, and replays itself as a graph would: from its input into its output."""

    def __init__(self):
        self.calls, self.replays = [], 0

    def __call__(self, x):
        self.calls.append(tuple(x.shape))
        self.input, self.output = x, 2 * x
        return self.output

    def replay(self):
        self.replays += 1
        torch.mul(self.input, 2, out=self.output)


@pytest.fixture
def forward(monkeypatch):
    recorder = Recorder()

    @contextmanager
    def capture(graph, **_):
        yield

    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: recorder)
    monkeypatch.setattr(torch.cuda, 'graph', capture)
    monkeypatch.setattr(torch.cuda, 'stream', nullcontext)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: None)
    return recorder


def test_the_third_call_in_a_row_captures_and_replays(forward):
    graphed = GraphedForward(forward)
    for i in range(REPEATS + 2):
        assert graphed(X + i).tolist() == (2 * (X + i)).tolist()
    assert forward.replays == 3
    assert len(forward.calls) == REPEATS - 1 + 2  # before, then once for cuDNN and once for the capture


def test_another_shape_begins_again(forward):
    graphed = GraphedForward(forward)
    for _ in range(REPEATS):
        graphed(X)
    assert graphed(X[:1]).tolist() == (2 * X[:1]).tolist()
    assert forward.calls[-1] == (1, 3)
    assert graphed(X).tolist() == (2 * X).tolist()
    assert forward.replays == 1


def test_a_model_that_cannot_be_captured_goes_on(forward, monkeypatch):
    @contextmanager
    def refuse(graph, **_):
        yield
        raise RuntimeError('operation not permitted when stream is capturing\nlong explanation')

    messages, ended = [], []
    monkeypatch.setattr('mmbirefnet.utils.cuda_graph._end_failed_capture', lambda: ended.append(True))
    monkeypatch.setattr('mmbirefnet.apis.cuda_graph.print_log', lambda message, *_: messages.append(message))
    monkeypatch.setattr(torch.cuda, 'graph', refuse)
    benchmark = torch.backends.cudnn.benchmark
    graphed = GraphedForward(forward)
    for _ in range(2 * REPEATS):
        assert graphed(X).tolist() == (2 * X).tolist()
    assert ended == [True]
    assert forward.replays == 0
    assert len(forward.calls) == 2 * REPEATS + 2  # one capture was tried
    assert torch.backends.cudnn.benchmark == benchmark
    (message,) = messages
    assert message.startswith('no CUDA graph for inputs of shape (2, 3)')
    assert message.endswith('operation not permitted when stream is capturing')


def test_garbage_is_collected_before_a_capture(forward, monkeypatch):
    """The end of another graph during a capture breaks it."""
    garbage = Recorder()
    garbage.cycle, alive = garbage, weakref.ref(garbage)
    del garbage
    with capture(forward):
        assert alive() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_predictions_of_a_graph_on_a_gpu(trained_checkpoint, dtype, monkeypatch):
    # The search before the capture may choose algorithms with TF32, which cuDNN uses by default.
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    graphed = TorchBackend(*trained_checkpoint, device='cuda', dtype=dtype)
    plain = TorchBackend(*trained_checkpoint, device='cuda', dtype=dtype, cuda_graph=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(REPEATS + 2):
        image = torch.randint(256, (1, 96, 96, 3), dtype=torch.uint8, generator=generator).numpy()
        assert abs(graphed(image) - plain(image)).max() < (1e-4 if dtype == 'float32' else 2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_after_a_failed_capture_random_numbers_and_streams_work():
    x, stream = torch.ones(8, device='cuda'), torch.cuda.current_stream()
    for _ in range(2):
        with pytest.raises(RuntimeError), capture(torch.cuda.CUDAGraph()):
            torch.rand_like(x).sum().item()
        assert torch.cuda.current_stream() == stream
        assert torch.rand_like(x).unique().numel() > 1
