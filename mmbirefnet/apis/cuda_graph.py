"""Replay a forward pass as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmbirefnet.utils.cuda_graph import capture

REPEATS = 3  # a capture takes as long as a few passes


class GraphedForward:
    """A forward pass on CUDA that becomes a CUDA graph when it gets the same shape several times in a row.

    BiRefNet launches more than a thousand kernels for an image. At batch size 1 the CPU takes longer to launch them
    than the GPU to run them; a graph launches all of them at once. If the pass cannot be captured, for example for lack
    of memory, a warning is logged, and the pass runs without a graph.

    Args:
        forward: Function of one tensor whose control flow does not depend on values, and whose parameters stay in
            place.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward
        self.shape, self.calls, self.graph = None, 0, None

    def __call__(self, x: Tensor) -> Tensor:
        """Run ``forward`` without gradients; the result is valid until the next call."""
        if x.shape != self.shape:
            self.shape, self.calls, self.graph = x.shape, 0, None
        self.calls += 1
        if self.calls == REPEATS:
            self._capture(x)
        if self.graph is None:
            return self.forward(x)
        self.input.copy_(x)
        self.graph.replay()
        return self.output

    def _capture(self, x: Tensor) -> None:
        self.input = x.clone()
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            self.forward(self.input)  # cuDNN times its algorithms for this shape, which cannot be captured
            graph = torch.cuda.CUDAGraph()
            with capture(graph):
                self.output = self.forward(self.input)
            self.graph = graph
        except RuntimeError as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            message = f'no CUDA graph for inputs of shape {tuple(x.shape)}, each pass launches its kernels: {first}'
            print_log(message, 'current', logging.WARNING)
        finally:
            torch.backends.cudnn.benchmark = benchmark
