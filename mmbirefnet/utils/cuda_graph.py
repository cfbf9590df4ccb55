"""Capture of CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def capture(graph: torch.cuda.CUDAGraph, pool: tuple[int, int] | None = None) -> Iterator[None]:
    """Capture the kernels of a block as a graph, like ``torch.cuda.graph``, without effect on other threads.

    If the block cannot be captured, the current stream and the random generator stay usable.

    Args:
        graph: The graph.
        pool: Memory pool of another graph to share, whose replay always comes first.
    """
    gc.collect()  # the end of another graph during a capture would break it
    try:
        with _stream_kept(), torch.cuda.graph(graph, pool=pool, capture_error_mode='thread_local'):
            yield
    except RuntimeError:
        _end_failed_capture()
        raise


def _end_failed_capture() -> None:
    """Capture anything: the random generator counts for a failed capture until the next one ends."""
    with _stream_kept(), torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode='thread_local'):
        torch.zeros(1, device='cuda')


def _stream_kept() -> torch.cuda.StreamContext:
    """Context that restores the current stream, which ``torch.cuda.graph`` does not do after an error."""
    return torch.cuda.stream(torch.cuda.current_stream())
