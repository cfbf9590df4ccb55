"""Run ONNX models with onnxruntime and NumPy only."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbirefnet.fileio.onnx_metadata import IMAGENET_MEAN, IMAGENET_STD, OUTPUTS, OnnxMetadata

DTYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}
# Kind of output of files without this project's metadata, by the name of the output node. Sources of such files: the
# reference implementation, rembg, onnx-community, RMBG-2.0.
OUTPUT_NAMES = {'output_image': 'logits', 'logits': 'logits', 'alphas': 'probabilities'}
# Input size of most released models, for files that accept any size.
DEFAULT_SIZE = (1024, 1024)
STRIDE = 32


class OnnxBackend:
    """A BiRefNet in an ONNX file: uint8 images in, probabilities out.

    Files of ``tools/export_onnx.py`` contain metadata that describes input and output. Other files, such as the
    released BiRefNet files, must have one input ``(N, 3, H, W)``, RGB images normalized with ImageNet's mean and
    standard deviation, and one output ``(N, 1, H, W)``. An output named ``output_image`` or ``logits`` contains logits,
    and one named ``alphas`` probabilities; for other names, pass ``output``.

    Attributes:
        input_size: (H, W) in pixels that the model was exported for; 1024x1024 if the file accepts any size and has no
            metadata.
        fixed_size: Whether the model accepts only ``input_size``.
        max_batch: Largest number of images in one call; ``None`` for no limit.
        name: Name of the file without its suffix.
        metadata: Description of input and output, from the file or as above.
        providers: Execution providers that onnxruntime uses.

    Args:
        path: ONNX file.
        providers: Execution providers of onnxruntime in order of preference. By default CUDA if available, and the
            CPU.
        output: ``'logits'`` or ``'probabilities'``, for a file without metadata.
        mean: Mean of red, green and blue in gray levels 0 to 255, for a file without metadata.
        std: Standard deviation, likewise.
        threads: Number of CPU threads; by default ``OMP_NUM_THREADS``, or one per core.

    Raises:
        ImportError: If onnxruntime is not installed.
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not an ONNX file or is another kind of model, if the kind of its output is unknown,
            if ``output``, ``mean`` or ``std`` is given for a file with metadata, or if ``threads`` is below 1.
        RuntimeError: If one of ``providers`` cannot be used. Without ``providers`` a warning is issued instead.
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
        # A dimension with a name instead of a number may vary.
        self.max_batch = batch if isinstance(batch, int) else None
        self.fixed_size = all(isinstance(side, int) for side in size)
        try:
            found = OnnxMetadata.from_props(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error
        given = [name for name, value in (('output', output), ('mean', mean), ('std', std)) if value is not None]
        if found is not None and given:
            raise ValueError(f'{self.path}: its metadata contains {", ".join(given)}. Fix: do not pass it')
        self.metadata = found or _assume(self.path, self._output.name, output, mean, std)
        self.input_size = tuple(size) if self.fixed_size else self.metadata.input_size
        self._mean, self._scale = (
            np.array(values, np.float32)[:, None, None]
            for values in (self.metadata.mean, [1 / value for value in self.metadata.std])
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict.

        Args:
            images: uint8 RGB ``(N, H, W, 3)``; H and W are multiples of 32, and ``input_size`` if ``fixed_size``.

        Returns:
            Probabilities in [0, 1], float32, ``(N, H, W)``.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If the shape or size of the images is wrong, if there are too many, or if an output of
                probabilities is not in [0, 1].
        """
        maps = self.outputs(images)
        if self.metadata.output == 'logits':
            return 0.5 * np.tanh(0.5 * maps) + 0.5  # the sigmoid; exp would overflow
        low, high = maps.min(initial=0), maps.max(initial=0)
        if not (low > -1e-3 and high < 1 + 1e-3):
            raise ValueError(f"{self.path}: expected probabilities, got {low:.3g} to {high:.3g}. Fix: output='logits'")
        return maps.clip(0, 1)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Return the raw output of the model, float32 ``(N, H, W)``; arguments and errors as for a call."""
        self._check(images)
        inputs = self._normalize(images)
        if self.max_batch is not None and len(inputs) < self.max_batch:  # pad the batch
            inputs = np.concatenate([inputs, np.zeros((self.max_batch - len(inputs), *inputs.shape[1:]), inputs.dtype)])
        (maps,) = self._session.run([self._output.name], {self._input.name: inputs})
        return maps[: len(images), 0].astype(np.float32, copy=False)

    def _normalize(self, images: np.ndarray) -> np.ndarray:
        """Convert uint8 RGB ``(N, H, W, 3)`` to the input of the model, ``(N, 3, H, W)``."""
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
                f'{self.path}: expected images of {_text(self.input_size)}, got {height}x{width}. '
                'Fix: resize them, or export the model for that size'
            )
        if height % STRIDE or width % STRIDE or not height or not width:
            raise ValueError(f'{self.path}: expected multiples of {STRIDE}, got {height}x{width}. Fix: resize them')
        if self.max_batch is not None and len(images) > self.max_batch:
            raise ValueError(
                f'{self.path}: expected at most {self.max_batch} image{"s" * (self.max_batch > 1)} at once, '
                f'got {len(images)}. Fix: export the model with --dynamic-batch'
            )

    def __repr__(self) -> str:
        return f'OnnxBackend({str(self.path)!r}, {_text(self.input_size)}, {self.providers[0]})'


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _threads_of_openmp() -> int:
    """Return ``OMP_NUM_THREADS``, which onnxruntime does not read itself; 0 if it is not set."""
    first = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0


def _load(path: Path, providers: Sequence[str] | None, threads: int):
    """Open a file with onnxruntime; 0 threads means one per core."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{path}: ONNX models need onnxruntime. Fix: pip install onnxruntime (or onnxruntime-gpu)'
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
    options.enable_mem_pattern = False  # otherwise memory is 1.6 times higher from the second run on, at the same speed
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers)
    except Exception as error:  # onnxruntime's exception types are not public
        hint = ''
        if 'DeformConv' in str(error):
            hint = '. Fix: update onnxruntime, or export with --deform-conv gridsample'
        raise ValueError(
            f'{path}: not an ONNX model that onnxruntime {onnxruntime.__version__} can load ({error}){hint}'
        ) from error
    # onnxruntime falls back to the CPU, and only logs it.
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != first:
        text = f'{path}: onnxruntime cannot use {first}, see its log for the reason'
        if required:
            raise RuntimeError(f"{text}. Fix: providers=['CPUExecutionProvider'] runs on the CPU")
        warnings.warn(f'{text}; the model runs on the CPU', stacklevel=3)
    return session


def _single_input_and_output(session, path: Path):
    """Return the input and output nodes, an image and a map of the same size."""
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
    """Metadata to assume for a file that has none."""
    output = output or OUTPUT_NAMES.get(name)
    if output is None:
        known = ', '.join(OUTPUT_NAMES)
        raise ValueError(
            f'{path}: no metadata, and an output named {name!r} (known names: {known}): the kind of output is unknown. '
            "Fix: pass output='logits' or output='probabilities'"
        )
    if output not in OUTPUTS:
        raise ValueError(f'output must be one of {", ".join(map(repr, OUTPUTS))}, got {output!r}')
    mean, std = tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or 0 in std:
        raise ValueError(f'mean and std must be three numbers each, and std not 0, got {mean} and {std}')
    return OnnxMetadata(DEFAULT_SIZE, mean, std, output=output)
