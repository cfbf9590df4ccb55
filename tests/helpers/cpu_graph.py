"""CUDA graphs without a GPU: operators are recorded, and run again on the same memory."""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CPUGraph(TorchDispatchMode):
    """Operators on the CPU. As in a CUDA graph, values cannot be read, and numbers and places in memory are kept.

    A later graph draws random numbers of the earlier one again, for activation checkpointing, if its replay starts at
    the same state of the generator. A graph that draws no others does not read that state, as in recent versions of
    torch.
    """

    replays = 0

    def __init__(self):
        super().__init__()
        self.calls, self.allocated, self.later, self.earlier = [], [], [], None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError('called a synchronizing CUDA operation')
        place = random_state() if torch.Tag.nondeterministic_seeded in function.tags else None
        results = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, results, place))
        given = {storage(each) for each in tensors_of((args, kwargs))}
        self.allocated += [each for each in tensors_of(results) if storage(each) not in given]
        return results

    def pool(self):
        return self

    @torch.no_grad()
    def replay(self):
        type(self).replays += 1
        for graph in self.later:  # in the same memory
            for tensor in graph.allocated:
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        self.start, self.drawn = random_state(), {}
        for function, args, kwargs, results, place in self.calls:
            if place is not None:
                self.drawn[place] = random_state()
            with self.state_of(place):
                news = function(*args, **kwargs)
            for old, new in zip(tensors_of(results), tensors_of(news)):
                # Views and results of in-place operators are in their place already.
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    @contextmanager
    def state_of(self, place):
        """Context of an operator that was captured at this state of the generator."""
        drawn = self.earlier.drawn if self.earlier else {}
        if place not in drawn:
            yield
            return
        seeded = any(other is not None and other not in drawn for *_, other in self.calls)
        with torch.random.fork_rng([]):
            if seeded and self.start == self.earlier.start:
                torch.set_rng_state(torch.frombuffer(bytearray(drawn[place]), dtype=torch.uint8))
            else:
                torch.manual_seed(0)
            yield


def random_state():
    return torch.get_rng_state().numpy().tobytes()


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@contextmanager
def capture(graph, pool=None, **_):
    if pool is not None:
        pool.later.append(graph)
        graph.earlier = pool
    with graph:
        yield


def install(monkeypatch):
    """Replace what captures use of ``torch.cuda``; returns the class that counts replays."""
    monkeypatch.setattr(CPUGraph, 'replays', 0)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', CPUGraph)
    monkeypatch.setattr(torch.cuda, 'graph', capture)
    monkeypatch.setattr(torch.cuda, 'Stream', lambda: None)
    monkeypatch.setattr(torch.cuda, 'stream', nullcontext)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: None)
    monkeypatch.setattr('mmbirefnet.utils.cuda_graph._end_failed_capture', lambda: None)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state, device: torch.set_rng_state(state))
    monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', lambda mode: None)
    return CPUGraph
