"""CUDA graphs without a GPU: operators are recorded, and run again on the same memory."""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CPUGraph(TorchDispatchMode):
    """Operators on the CPU. As in a CUDA graph, values cannot be read, and numbers and places in memory are kept."""

    replays = 0

    def __init__(self):
        super().__init__()
        self.calls, self.allocated, self.later = [], [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError('called a synchronizing CUDA operation')
        results = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, results))
        given = {storage(each) for each in tensors_of((args, kwargs))}
        self.allocated += [each for each in tensors_of(results) if storage(each) not in given]
        return results

    def pool(self):
        return self.later

    @torch.no_grad()
    def replay(self):
        type(self).replays += 1
        for graph in self.later:  # in the same memory
            for tensor in graph.allocated:
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        for function, args, kwargs, results in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tensors_of(results), tensors_of(again)):
                # Views and results of in-place operators are in their place already.
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@contextmanager
def capture(graph, pool=None, **_):
    if pool is not None:
        pool.append(graph)
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
    monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', lambda mode: None)
    return CPUGraph
