"""Soft maps from an ONNX file, with onnxruntime and numpy alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbirefnet.fileio.onnx_metadata import IMAGENET_MEAN, IMAGENET_STD, OUTPUTS, OnnxMetadata

DTYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}
# What files without this project's metadata give, by the name of their output: those of the reference
# implementation, of rembg and of onnx-community; RMBG-2.0.
OUTPUT_NAMES = {'output_image': 'logits', 'logits': 'logits', 'alphas': 'probabilities'}
# The size of the released models, for files that take any.
DEFAULT_SIZE = (1024, 1024)
STRIDE = 32


class OnnxBackend:
    """A BiRefNet exported to ONNX, as a function from images to soft maps.

    Files of ``tools/export_onnx.py`` say how they are to be used. Others, such as the released BiRefNet files, are
    taken if they have one input ``(N, 3, H, W)`` and one output ``(N, 1, H, W)``: RGB images normalized by ImageNet's
    mean and deviation go in, and logits come out if the output is named ``output_image`` or ``logits``, probabilities
    if it is named ``alphas``; for another name ``output`` has to say.

    Attributes:
        input_size: (H, W) in pixels that the model was exported for; 1024x1024 if it takes any and does not say.
        fixed_size: Whether it takes no other size.
        max_batch: Most images in one call; ``None`` for any number.
        name: The file's name without its suffix.
        metadata: How the model is used, as its file says or as above.
        providers: What onnxruntime runs it on.

    Args:
        path: The ONNX file.
        providers: Execution providers of onnxruntime, the first choice first. By default CUDA where it works, and the
            CPU.
        output: ``'logits'`` or ``'probabilities'``, for a file that does not say.
        mean: For a file that does not say: of red, green and blue, in gray levels 0 to 255.
        std: Likewise.
        threads: Of onnxruntime on the CPU; by default ``OMP_NUM_THREADS``, or one a core.

    Raises:
        ImportError: If onnxruntime is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no ONNX file, is another kind of model, or does not say what it gives; or if ``output``,
            ``mean`` or ``std`` are given for a file that does; or if ``threads`` is below 1.
        RuntimeError: If a provider that was asked for cannot be used; without ``providers`` it is a warning.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        providers: Sequence[str] | None = None,
        output: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f'threads={threads!r}, must be 1 or more')
        self.path = Path(path)
        self.name = self.path.stem
        self._session = _load(self.path, providers, threads or _threads_of_openmp())
        self.providers = self._session.get_providers()
        self._input, self._output = _single_input_and_output(self._session, self.path)
        batch, _, *size = self._input.shape
        # Names stand for what may vary.
        self.max_batch = batch if isinstance(batch, int) else None
        self.fixed_size = all(isinstance(side, int) for side in size)
        try:
            found = OnnxMetadata.from_props(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error
        given = [name for name, value in (('output', output), ('mean', mean), ('std', std)) if value is not None]
        if found is not None and given:
            raise ValueError(f'{self.path} says itself what {", ".join(given)} is; do not give it')
        self.metadata = found or _assume(self.path, self._output.name, output, mean, std)
        self.input_size = tuple(size) if self.fixed_size else self.metadata.input_size
        self._mean, self._scale = (
            np.array(values, np.float32)[:, None, None]
            for values in (self.metadata.mean, [1 / value for value in self.metadata.std])
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Soft maps of images.

        Args:
            images: RGB, uint8, ``(N, H, W, 3)``; H and W multiples of 32, ``input_size`` if ``fixed_size``.

        Returns:
            Probabilities in [0, 1], float32, ``(N, H, W)``.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If they are of another shape or size, or too many; or if a model said to give probabilities
                gives others.
        """
        maps = self.outputs(images)
        if self.metadata.output == 'logits':
            return 0.5 * np.tanh(0.5 * maps) + 0.5  # the sigmoid; exp would overflow
        low, high = maps.min(initial=0), maps.max(initial=0)
        if not (low > -1e-3 and high < 1 + 1e-3):
            raise ValueError(f"{self.path} gives no probabilities but values of {low:.3g} to {high:.3g}; use 'logits'")
        return maps.clip(0, 1)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """What the model itself gives, float32 ``(N, H, W)``; args and errors as above."""
        self._check(images)
        inputs = self._normalize(images)
        if self.max_batch is not None and len(inputs) < self.max_batch:  # filled up with images that are dropped again
            inputs = np.concatenate([inputs, np.zeros((self.max_batch - len(inputs), *inputs.shape[1:]), inputs.dtype)])
        (maps,) = self._session.run([self._output.name], {self._input.name: inputs})
        return maps[: len(images), 0].astype(np.float32, copy=False)

    def _normalize(self, images: np.ndarray) -> np.ndarray:
        """``(N, H, W, 3)`` RGB to the model's input, ``(N, 3, H, W)``."""
        if self.metadata.channel_order == 'BGR':
            images = images[..., ::-1]
        inputs = (np.moveaxis(images, -1, 1) - self._mean) * self._scale
        return np.ascontiguousarray(inputs, DTYPES[self._input.type])

    def _check(self, images: np.ndarray) -> None:
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            found = getattr(images, 'dtype', type(images).__name__)
            raise TypeError(f'images must be a numpy array of uint8, got {found}')
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f'images must have shape (N, H, W, 3), got {images.shape}')
        height, width = images.shape[1:3]
        if self.fixed_size and (height, width) != self.input_size:
            raise ValueError(
                f'{self.path} takes images of {_text(self.input_size)} only, got {height}x{width}; '
                'resize them, or export the model for that size'
            )
        if height % STRIDE or width % STRIDE or not height or not width:
            raise ValueError(f'{self.path} takes multiples of {STRIDE} only, got {height}x{width}; resize them')
        if self.max_batch is not None and len(images) > self.max_batch:
            raise ValueError(
                f'{self.path} takes at most {self.max_batch} image{"s" * (self.max_batch > 1)} at once, '
                f'got {len(images)}; export the model with --dynamic-batch'
            )

    def __repr__(self) -> str:
        return f'OnnxBackend({str(self.path)!r}, {_text(self.input_size)}, {self.providers[0]})'


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _threads_of_openmp() -> int:
    """The threads that OpenMP would use by ``OMP_NUM_THREADS``, which onnxruntime does not read; 0 without it."""
    first = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0


def _load(path: Path, providers: Sequence[str] | None, threads: int):
    """A session of onnxruntime on a file; 0 threads stand for one a core."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{path}: ONNX models need onnxruntime: pip install onnxruntime (or onnxruntime-gpu)'
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    available = onnxruntime.get_available_providers()
    required = providers is not None
    if providers is None:
        providers = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in available]
    else:
        providers = [providers] if isinstance(providers, str) else list(providers)
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers]  # (name, options)
        unknown = [name for name in names if name not in available]
        if unknown:
            raise RuntimeError(f'this onnxruntime has no {", ".join(unknown)}; it has {", ".join(available)}')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # which from the second run on takes 1.6 times the memory and no less time
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers)
    except Exception as error:  # onnxruntime has an exception type for every status, none public
        hint = ''
        if 'DeformConv' in str(error):
            hint = '; update onnxruntime, or export with --deform-conv gridsample'
        raise ValueError(
            f'{path}: not an ONNX model that onnxruntime {onnxruntime.__version__} can load ({error}){hint}'
        ) from error
    # onnxruntime falls back to the CPU with a line in its log only.
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != first:
        text = f'{path}: onnxruntime cannot use {first} here, its log says why'
        if required:
            raise RuntimeError(f"{text}; providers=['CPUExecutionProvider'] runs on the CPU")
        warnings.warn(f'{text}; the model runs on the CPU', stacklevel=3)
    return session


def _single_input_and_output(session, path: Path):
    """The input and the output of a model that has one each, an image and a map of its size."""
    inputs, outputs = session.get_inputs(), session.get_outputs()

    def fits(node, channels: int) -> bool:
        if node.type not in DTYPES or len(node.shape) != 4:
            return False
        return not isinstance(node.shape[1], int) or node.shape[1] == channels

    if len(inputs) == len(outputs) == 1 and fits(inputs[0], 3) and fits(outputs[0], 1):
        sides = zip(inputs[0].shape[2:], outputs[0].shape[2:])
        if not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sides):
            return inputs[0], outputs[0]
    found = ', '.join(f'{node.name} {node.type} {node.shape}' for node in inputs)
    given = ', '.join(f'{node.name} {node.type} {node.shape}' for node in outputs)
    raise ValueError(
        f'{path}: not a BiRefNet: expected one input (N, 3, H, W) and one output (N, 1, H, W) of floats, '
        f'found inputs {found} and outputs {given}'
    )


def _assume(path: Path, name: str, output: str | None, mean, std) -> OnnxMetadata:
    """How a file without this project's metadata is used."""
    output = output or OUTPUT_NAMES.get(name)
    if output is None:
        known = ', '.join(OUTPUT_NAMES)
        raise ValueError(
            f'{path}: without metadata, and with an output named {name!r} (known are {known}), it does not say what it '
            "gives: pass output='logits' or output='probabilities'"
        )
    if output not in OUTPUTS:
        raise ValueError(f'output must be one of {", ".join(map(repr, OUTPUTS))}, got {output!r}')
    mean, std = tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or 0 in std:
        raise ValueError(f'mean and std must be three numbers each, of std none 0, got {mean} and {std}')
    return OnnxMetadata(DEFAULT_SIZE, mean, std, output=output)
