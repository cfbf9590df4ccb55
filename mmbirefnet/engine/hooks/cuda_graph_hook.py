"""Replay forward and backward pass of a training step as CUDA graphs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn.parallel import DistributedDataParallel

from mmbirefnet.registry import HOOKS
from mmbirefnet.utils.cuda_graph import capture

REPEATS = 3  # steps of one kind before the capture, which takes as long as a few steps


@HOOKS.register_module()
class CUDAGraphHook(Hook):
    """Replay the forward and the backward pass of training steps as CUDA graphs.

    A step of BiRefNet launches some 8000 kernels. With a fast GPU or a small batch, the CPU takes longer to launch them
    than the GPU to run them; a graph launches all of them at once. Losses and gradients are those of a step without
    graphs. See :class:`GraphedLoss` for what must not change between steps. Without a GPU, this hook does nothing.

    Raises:
        ValueError: If ``torch.compile`` compiles the model, or if its parameters are sharded, when the training starts.
    """

    def before_train(self, runner: Runner) -> None:
        """Replace ``model.loss``."""
        wrapped = is_model_wrapper(runner.model)
        if wrapped and not isinstance(runner.model, DistributedDataParallel):
            raise ValueError(
                f'CUDAGraphHook: parameters in {type(runner.model).__name__} do not stay in place. Fix: remove the '
                'hook, or use no model_wrapper_cfg'
            )
        if runner.cfg.get('compile'):
            raise ValueError('CUDAGraphHook captures uncompiled models. Fix: remove the hook, or set compile=False')
        self._model = runner.model.module if wrapped else runner.model
        self.after_train(runner)  # a former training may have failed
        if torch.cuda.is_available():
            self._model.loss = GraphedLoss(self._model)

    def after_train(self, runner: Runner) -> None:
        """Restore ``model.loss`` and free the graphs."""
        vars(self._model).pop('loss', None)


class GraphedLoss:
    """``model.loss`` that replays two CUDA graphs, of the losses and of their gradients.

    A graph is captured when three steps in a row agree in shapes, dtypes, loss weights, and which modules and
    parameters are trained. It is replayed for all steps that agree with these; others run without it, for example a
    smaller last batch, whose memory is allocated beside that of the graph. If a step cannot be captured, for example
    because a loss waits for a value on the CPU, a warning is logged, and steps run without a graph.

    Losses see the masks (``gt_sem_seg``) and the ``class_label`` of each step, but no other fields of samples. Random
    numbers are new in each step; activation checkpointing draws them again in the backward pass. Parameters and buffers
    must stay in place, and attributes of modules other than ``loss_weight`` must not change.

    Args:
        model: Segmentor whose losses are scalars.
    """

    def __init__(self, model: BaseSegmentor) -> None:
        self.model, self.loss = model, model.loss
        self.modules = list(model.modules())
        self.parameters = list(model.parameters())
        self.kind, self.steps, self.graph = None, 0, None

    def __call__(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Same as ``model.loss``; call ``backward`` before the next call."""
        if not torch.is_grad_enabled():
            return self.loss(inputs, data_samples)
        tensors = [inputs, *(sample.gt_sem_seg.data for sample in data_samples)]
        if all('class_label' in sample for sample in data_samples):
            tensors += [torch.as_tensor(sample.class_label, device=inputs.device) for sample in data_samples]
        kind = self._kind(tensors)
        self.steps = self.steps + 1 if kind == self.kind else 1
        self.kind = kind
        if self.steps == REPEATS and (self.graph is None or self.graph.kind != kind):
            self.graph = None  # frees its memory before the next one needs it
            self.graph = self._capture(kind, tensors)
        if self.graph is None or self.graph.kind != kind:
            return self.loss(inputs, data_samples)
        return self.graph.replay(tensors)

    def _kind(self, tensors: list[Tensor]) -> Hashable:
        """What must be equal for a step to be a replay of another."""
        return (
            tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors),
            (torch.is_autocast_enabled(), torch.autocast('cuda').fast_dtype),
            tuple((module.training, vars(module).get('loss_weight')) for module in self.modules),
            tuple(parameter.requires_grad for parameter in self.parameters),
        )

    def _capture(self, kind: Hashable, tensors: list[Tensor]) -> _LossGraph | None:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with torch.random.fork_rng([tensors[0].device] if tensors[0].is_cuda else []):
                return _LossGraph(self.loss, self.modules, kind, tensors)
        except Exception as error:  # also of heads that need other fields of samples
            first = next(iter(str(error).splitlines()), type(error).__name__)
            message = f'no CUDA graph of the training step, each step launches its kernels: {first}'
            print_log(message, 'current', logging.WARNING)
            return None
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise ``RuntimeError`` where the CPU waits for the GPU, as a capture does, with less clear messages."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that the mode does not find all
        torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _leaves(modules: list[nn.Module]) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Replace trained parameters by leaves of the same memory.

    The nodes where autograd collects gradients of parameters may belong to another stream, which a capture must not
    wait for.
    """
    slots = [
        (module._parameters, name, parameter)
        for module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    leaves = {parameter: parameter.detach().requires_grad_() for _, _, parameter in slots}
    for parameters, name, parameter in slots:
        parameters[name] = leaves[parameter]
    try:
        yield leaves
    finally:
        for parameters, name, parameter in slots:
            parameters[name] = parameter


class _LossGraph:
    """The captured graphs, with the memory that they read and write."""

    def __init__(
        self,
        loss: Callable[..., dict[str, Tensor]],
        modules: list[nn.Module],
        kind: Hashable,
        tensors: list[Tensor],
    ) -> None:
        self.kind = kind
        self.tensors = [tensor.clone() for tensor in tensors]
        count = len(self.tensors[0])
        masks, labels = self.tensors[1 : 1 + count], self.tensors[1 + count :]
        samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in masks]
        for sample, label in zip(samples, labels):
            sample.set_field(label, 'class_label', field_type='metainfo')  # set_metainfo would copy it
        # Kernels that autocast has cached would be converted once, not in each replay.
        autocast = torch.autocast('cuda', enabled=torch.is_autocast_enabled(), cache_enabled=False)

        def forward() -> tuple[Tensor, ...]:
            with autocast:
                losses = loss(self.tensors[0], samples)
            self.names = tuple(losses)
            return tuple(losses.values())

        def backward(losses: tuple[Tensor, ...], grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            trained = [each for each in losses if each.requires_grad]
            return torch.autograd.grad(trained, list(leaves.values()), grads, allow_unused=True)

        # Outside of autocast, as the backward pass of a step.
        with _leaves(modules) as leaves, torch.autocast('cuda', enabled=False):
            # One-time work, such as handles of libraries for another stream, cannot be captured.
            with torch.cuda.stream(torch.cuda.Stream()), _no_waiting():
                losses = forward()
                self.trained = [each.requires_grad for each in losses]
                self.grads = [torch.ones_like(each) for each in losses if each.requires_grad]
                backward(losses, self.grads)
                del losses
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with capture(self.forward):
                losses = forward()
            with capture(self.backward, self.forward.pool()):
                # A replay reads the state of the generator only if its graph draws numbers; those that activation
                # checkpointing draws again do not count.
                torch.rand(1, device=self.tensors[0].device)
                self.gradients = backward(losses, self.grads)
        self.parameters = list(leaves)
        self.losses = tuple(each.detach() for each in losses)

    def replay(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Losses of a batch, whose gradients a replay of the backward graph computes."""
        # autograd makes the first gradient of a parameter its .grad without a copy, but both graphs write there.
        for parameter, gradient in zip(self.parameters, self.gradients):
            if parameter.grad is not None and gradient is not None and parameter.grad.data_ptr() == gradient.data_ptr():
                parameter.grad = parameter.grad.clone()
        for static, tensor in zip(self.tensors, tensors):
            static.copy_(tensor)
        return dict(zip(self.names, _Replay.apply(self, *self.parameters)))


class _Replay(Function):
    """Autograd node of a step."""

    @staticmethod
    def forward(ctx, graph: _LossGraph, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.random_state = graph, torch.cuda.get_rng_state(graph.tensors[0].device)
        graph.forward.replay()
        losses = tuple(loss.clone() for loss in graph.losses)
        ctx.mark_non_differentiable(*(loss for loss, trained in zip(losses, graph.trained) if not trained))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        graph = ctx.graph
        for static, grad in zip(graph.grads, (grad for grad, trained in zip(grads, graph.trained) if trained)):
            static.copy_(grad)
        device = graph.tensors[0].device
        with torch.random.fork_rng([device]):
            # Activation checkpointing draws the random numbers of the forward pass again.
            torch.cuda.set_rng_state(ctx.random_state, device)
            graph.backward.replay()
        return None, *(None if gradient is None else gradient.detach() for gradient in graph.gradients)
