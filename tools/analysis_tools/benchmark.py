"""Measure time, memory and operations of inference or training steps of a config, or the speed of its data pipeline.

Each variant runs in a separate process. With --versus, the steps of two or more variants alternate, for example

    python tools/analysis_tools/benchmark.py CONFIG --fused --versus='--plain --dcn mmcv' --versus=--plain

With --company N the steps of one process alternate with those of N processes at once.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

# Before mmengine, which would import transformers' optimizers, see keep_freed_memory.
from mmbirefnet.registry import MODELS

# isort: split
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmbirefnet.deploy import fuse
from mmbirefnet.engine.hooks.cuda_graph_hook import REPEATS, GraphedLoss
from mmbirefnet.engine.launch import load_config
from mmbirefnet.fileio.configs import ConfigOptions
from mmbirefnet.models import BiRefNet, DCNv2
from mmbirefnet.utils.allocator import keep_freed_memory

DTYPES = {name: getattr(torch, name) for name in ('float32', 'float16', 'bfloat16')}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--mode', choices=('inference', 'train', 'data'), default='inference', help='what to measure')
    parser.add_argument('--size', type=int, nargs=2, default=(1024, 1024), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='16-bit types use autocast')
    parser.add_argument('--fused', action='store_true', help='fuse the model (inference)')
    parser.add_argument('--plain', dest='fused', action='store_false', help='do not fuse it (default)')
    parser.add_argument('--dcn', choices=('auto', 'mmcv', 'torch', 'triton'), default='auto', help='backend of DCNv2')
    parser.add_argument(
        '--compile', action=argparse.BooleanOptionalAction, default=False, help='torch.compile the forward pass'
    )
    parser.add_argument('--cuda-graph', action=argparse.BooleanOptionalAction, default=False, help='replay CUDA graphs')
    parser.add_argument(
        '--tf32', action=argparse.BooleanOptionalAction, default=False, help='TF32 in float32 matrix products (CUDA)'
    )
    parser.add_argument(
        '--cudnn-benchmark',
        action=argparse.BooleanOptionalAction,
        default=False,
        help='let cuDNN choose its algorithms by time (CUDA)',
    )
    parser.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=False, help='memory format')
    parser.add_argument('--checkpoint', help='checkpoint (default: random weights)')
    parser.add_argument('--warmup', type=int, default=1, help='untimed steps (or batches) before the timed ones')
    parser.add_argument('--runs', type=int, default=5, help='timed steps (or batches)')
    parser.add_argument('--depth', type=int, default=3, help='depth of the table of modules; 0 for no table')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='change the config')
    parser.add_argument(
        '--versus',
        action='append',
        metavar='OPTIONS',
        help='another variant, with these additional options; repeatable',
    )
    parser.add_argument('--company', type=int, metavar='N', help='also compare N processes at once with one alone')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if min(args.batch_size, args.runs, *args.size) < 1 or args.warmup < 0:
        parser.error('--size, --batch-size and --runs: expected 1 or more; --warmup: 0 or more')
    if args.fused and args.mode != 'inference':
        parser.error(f'--fused: a fused model is for inference, not for --mode {args.mode}')
    if args.company is not None and (args.company < 2 or args.versus is not None):
        parser.error('--company: expected 2 or more processes, without --versus')
    if args.cuda_graph and (args.device != 'cuda' or args.mode == 'data'):
        parser.error('--cuda-graph: only for inference and training with --device cuda')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch finds no CUDA device')


class Steps:
    """Inference or training steps of one variant on one batch of noise."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        torch.manual_seed(0)
        torch.set_float32_matmul_precision('high' if args.tf32 else 'highest')
        torch.backends.cudnn.benchmark = args.cudnn_benchmark
        cfg = load_config(args)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.model = build_model(cfg.model, args).to(self.device)
        if args.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.inputs, self.samples = make_batch(self.model, args)
        if args.mode == 'train':
            self.model.train()
            self.optim = build_optim_wrapper(
                self.model, dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
            )
        if args.compile:
            self.plain_forward = self.model.forward
            self.model.forward = torch.compile(self.model.forward)
        self.phases = defaultdict(float)
        self.graph = None
        reset_peak_memory(self.device)
        if args.cuda_graph and args.mode == 'train':
            self.model.loss = GraphedLoss(self.model)
            for _ in range(REPEATS):
                self()
        elif args.cuda_graph:
            self.infer()  # one-time work, such as the choice of algorithms, cannot be captured
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.infer()

    def __call__(self) -> float:
        """Run a step and return its seconds."""
        start = self.now()
        if self.args.mode == 'inference':
            self.infer() if self.graph is None else self.graph.replay()
            return self.now() - start
        with self.autocast():
            losses = self.model(self.inputs, self.samples, mode='loss')
        loss, _ = self.model.parse_losses(losses)
        self.phases['forward'] += (forward := self.now()) - start
        loss.backward()
        self.phases['backward'] += (backward := self.now()) - forward
        self.optim.step()
        self.optim.zero_grad()  # in this order, as OptimWrapper.update_params
        self.phases['optimizer'] += (end := self.now()) - backward
        return end - start

    def autocast(self) -> AbstractContextManager:
        dtype = DTYPES[self.args.dtype]
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype)

    def infer(self) -> None:
        with torch.no_grad(), self.autocast():
            self.model(self.inputs, mode='tensor')

    def now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    def finish(self) -> dict:
        """Further results, measured after the timed steps."""
        result = dict(parameters=self.parameters, peak_memory=peak_memory(self.device))
        self.graph = None  # its kernels belong to no module
        vars(self.model).pop('loss', None)
        if self.args.compile:  # compiled graphs hide the modules
            self.model.forward = self.plain_forward
        result['modules'] = self.module_seconds() if self.args.depth else {}
        # Counted with the backend whose matrix products torch sees; the count is the same for all.
        for module in self.model.modules():
            if isinstance(module, DCNv2):
                module.backend = 'torch'
        # torch does not count the in-place product of the gradients of kernels.
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops}) as counter:
            self()
        return result | dict(flops=counter.get_total_flops())

    def module_seconds(self) -> dict[str, float]:
        """Seconds of one step by part: phases of training, and modules in the forward pass, including nested ones."""
        seconds, starts, handles = defaultdict(float), {}, []
        for name, module in self.model.named_modules():
            if name and name.count('.') < self.args.depth:

                def enter(module: nn.Module, _) -> None:
                    starts[module] = self.now()

                def leave(module: nn.Module, *_, name: str = name) -> None:
                    seconds[name] += self.now() - starts[module]

                handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        self.phases.clear()
        self()
        for handle in handles:
            handle.remove()
        return dict(self.phases) | dict(seconds)


def addmm_flops(total_shape, a_shape, b_shape, out_shape=None, **kwargs) -> int:
    """Multiplications and additions of ``total.addmm_(a, b)``."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


class Batches:
    """Batches of the config's training data, loaded as in training."""

    def __init__(self, args: argparse.Namespace) -> None:
        cfg = load_config(args)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        # Persistent workers would outlive the measurement.
        options = dict(batch_size=args.batch_size, persistent_workers=False)
        loader = Runner.build_dataloader(cfg.train_dataloader | options, seed=0)
        self.batches = (batch for _ in itertools.count() for batch in loader)

    def __call__(self) -> float:
        start = time.perf_counter()
        next(self.batches)
        return time.perf_counter() - start

    def finish(self) -> dict:
        self.batches.close()  # also ends the workers of the loader
        return dict(peak_memory=peak_memory(torch.device('cpu')))


def build_model(cfg: dict, args: argparse.Namespace) -> nn.Module:
    """Build the model of a config, without pretrained weights, according to the options."""
    model = MODELS.build(cfg)
    for module in model.modules():
        if isinstance(module, DCNv2):
            module.backend = args.dcn
            # Offsets are initialized with zero; those of trained models point to pixels in the neighborhood.
            nn.init.normal_(module.conv_offset.weight, std=0.1)
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint, map_location='cpu', strict=True)
    model.eval()
    if not args.fused:
        return model
    return fuse(model, dtype=None if args.dtype == 'float32' else DTYPES[args.dtype])


def make_batch(model: nn.Module, args: argparse.Namespace) -> tuple[Tensor, list[SegDataSample]]:
    """Normalized images ``(N, 3, H, W)`` and samples with masks."""
    height, width = args.size
    inputs = torch.randn(args.batch_size, 3, height, width, device=args.device)
    if args.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    samples = []
    for _ in range(args.batch_size):
        mask = (torch.rand(1, height, width, device=args.device) > 0.5).to(
            torch.float32 if isinstance(model, BiRefNet) else torch.int64
        )
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=dict(class_label=0)))
    return inputs, samples


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, so that loading libraries and building the model do not count."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated by torch on a GPU, else the resident set of the process with libraries."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated()
    return 1024 * int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])


def work(connection: Connection, args: argparse.Namespace) -> None:
    """Process of a variant: runs steps on request, then the further measurements."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the log of mmengine is not part of the report
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.mode == 'train' and args.device == 'cpu':
        keep_freed_memory()  # as tools/train.py
    steps = (Batches if args.mode == 'data' else Steps)(args)
    while connection.recv() == 'step':
        start = time.process_time()
        seconds = steps()
        connection.send((seconds, time.process_time() - start))
    connection.send(steps.finish())


@contextmanager
def processes(variants: list[argparse.Namespace]) -> Iterator[list[Connection]]:
    """Connections to one process per variant, each of which runs :func:`work`."""
    context = multiprocessing.get_context('spawn')
    connections = []
    for args in variants:
        ours, theirs = context.Pipe()
        # Not a daemon, since data loaders start processes.
        context.Process(target=work, args=(theirs, args)).start()
        theirs.close()
        connections.append(ours)
    try:
        yield connections
    except (EOFError, ConnectionError):
        raise SystemExit('error: a process failed, see above') from None
    finally:
        for connection in connections:
            connection.close()


def step_at_once(connections: list[Connection]) -> list[tuple[float, float]]:
    """Run a step in all processes at the same time; returns wall and CPU seconds of each."""
    for connection in connections:
        connection.send('step')
    return [connection.recv() for connection in connections]


def finish(connection: Connection, times: list[tuple[float, float]], args: argparse.Namespace) -> dict:
    connection.send('finish')
    wall, cpu = zip(*times)
    return summarize(wall, dict(connection.recv(), cpu_seconds=statistics.median(cpu)), args)


def measure(variants: list[argparse.Namespace]) -> list[dict]:
    """Measure variants with alternating steps."""
    warmup, runs = variants[0].warmup, variants[0].runs
    with processes(variants) as connections:
        rounds = [[step_at_once([each])[0] for each in connections] for _ in range(warmup + runs)][warmup:]
        return [finish(*each) for each in zip(connections, zip(*rounds), variants)]


def measure_company(args: argparse.Namespace) -> dict:
    """Measure one process alone and ``args.company`` processes at once, alternating."""
    with processes([args] * args.company) as connections:
        step_at_once(connections)  # wait until all are ready, and have done one-time work
        alone, together = [], []
        for _ in range(args.warmup + args.runs):
            alone += step_at_once(connections[:1])
            together.append([seconds for seconds, _ in step_at_once(connections)])
        alone, together = alone[args.warmup :], together[args.warmup :]
        result = finish(connections[0], alone, args)
        for connection in connections[1:]:
            connection.send('finish')
            connection.recv()
    ratio = statistics.median(statistics.mean(each) / one for each, (one, _) in zip(together, alone))
    seconds = [list(column) for column in zip(*together)]
    return result | dict(company=dict(processes=args.company, seconds=seconds, ratio=ratio))


def summarize(seconds: list[float], measured: dict, args: argparse.Namespace) -> dict:
    names = ('mode', 'device', 'dtype', 'fused', 'dcn', 'compile', 'cuda_graph', 'tf32', 'cudnn_benchmark')
    options = {name: getattr(args, name) for name in names}
    options |= dict(channels_last=args.channels_last, batch_size=args.batch_size, size=list(args.size))
    # Batches are prefetched, so only the time of all of them together is meaningful.
    latency = statistics.mean(seconds) if args.mode == 'data' else statistics.median(seconds)
    return dict(
        config=args.config,
        options=options | dict(cfg_options=args.cfg_options or {}),
        seconds=seconds,
        latency=latency,
        images_per_second=args.batch_size / latency,
        **measured,
    )


def describe_machine(args: argparse.Namespace) -> str:
    if args.device == 'cuda':
        return f'{torch.cuda.get_device_name()}, torch {torch.__version__}'
    cpu = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    threads = args.threads or torch.get_num_threads()
    return f'{cpu[1] if cpu else platform.machine()}, {threads} threads, torch {torch.__version__}'


def show(result: dict) -> None:
    options = result['options']
    print(f'{result["config"]}: ' + ', '.join(f'{name}={value}' for name, value in options.items() if value))
    print(f'  latency      {result["latency"]:10.4f} s (of {len(result["seconds"])}: {min(result["seconds"]):.4f} to '
          f'{max(result["seconds"]):.4f})')  # fmt: skip
    print(f'  CPU time     {result["cpu_seconds"]:10.4f} s (of all threads)')
    print(f'  throughput   {result["images_per_second"]:10.3f} images/s')
    print(f'  peak memory  {result["peak_memory"] / 2**20:10.0f} MiB')
    if 'flops' in result:
        print(f'  work         {result["flops"] / 1e9:10.1f} GFLOP, multiplications and additions')
        print(f'  parameters   {result["parameters"] / 1e6:10.2f} M')
    if 'company' in result:
        company = result['company']
        each = ', '.join(f'{statistics.median(seconds):.4f}' for seconds in company['seconds'])
        print(f'  {company["processes"]} at once    {each} s each, {company["ratio"]:.2f} times one alone')
    if 'versus_first' in result:
        ratios = result['versus_first']
        print(
            f'  the first is {ratios["speedup"]:.2f} times as fast ({ratios["cpu_ratio"]:.2f} by CPU time), '
            f'in {ratios["memory_ratio"]:.2f} times the memory'
        )
    for name, seconds in result.get('modules', {}).items():
        if seconds >= 0.01 * result['latency']:
            print(f'    {name:32s} {seconds:9.4f} s {seconds / result["latency"]:7.1%}')


def main() -> None:
    parser = make_parser()
    variants = [parser.parse_args()]
    for options in variants[0].versus or ():
        words = [variants[0].config, *shlex.split(options)]
        variants.append(parser.parse_args(words, copy.copy(variants[0])))
    for args in variants:
        check(parser, args)
    results = measure(variants) if variants[0].company is None else [measure_company(variants[0])]
    report = dict(machine=describe_machine(variants[0]), variants=results)
    first, *others = results
    for other in others:
        other['versus_first'] = dict(
            speedup=statistics.median(b / a for a, b in zip(first['seconds'], other['seconds'])),
            cpu_ratio=other['cpu_seconds'] / first['cpu_seconds'],
            memory_ratio=first['peak_memory'] / other['peak_memory'],
        )
    if variants[0].json:
        print(json.dumps(report))
        return
    print(report['machine'])
    for result in results:
        show(result)


if __name__ == '__main__':
    main()
