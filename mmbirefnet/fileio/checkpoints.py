"""Read parameter files in all formats, write checkpoints, and check whether parameters fit a model."""

import json
import os
import pickle
import re
import reprlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.fileio.restricted_unpickling import load_guarded

# Keys of the parameters in training checkpoints; averaged ones have priority.
NESTS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'model_state_dict', 'net')
HEADER_KEY = 'mmbirefnet'
"""Key of our facts about a model, as JSON, in the header of a ``.safetensors`` file and in ``config.json``."""
# mmengine's key of the average beside the parameters, or of the parameters beside the average.
AVERAGED = 'ema_state_dict'

DCN_VERSION = 3
"""Version of ``DCNv2`` in the metadata of state dicts: kernels equal those of the reference, and are not doubled."""
_DOUBLED_DCN_VERSION = 2  # version of mmcv's layer, and of this layer before
_DCN_KEY = '.conv_offset.weight'
_LARGEST_HEADER = 2**22  # bytes of the header of a .safetensors file with some 40,000 parameters
_LONGEST_NAME = 500  # characters of the name of a parameter
_WRAPPERS = re.compile(r'^model\.|\b(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read named parameters from a file, on the CPU.

    Args:
        path: A ``.safetensors`` file (needs the package safetensors), or a file of ``torch.save`` with a state dict,
            alone or in a dict under one of ``NESTS``. Only tensors and plain values are unpickled.

    Returns:
        The state dict with its metadata, from which layers read the version of their parameters.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If safetensors is needed and not installed.
        ValueError: If the file is damaged, has another format, or contains no state dict.
    """
    return state_dict_of(read_checkpoint(path, mmap=True), path)


def state_dict_of(content: object, path: str | os.PathLike) -> dict[str, Tensor]:
    """Extract the named parameters from the content of a checkpoint.

    Args:
        content: Result of :func:`read_checkpoint`.
        path: Name of the file in error messages.

    Raises:
        ValueError: If there is no state dict, or a name cannot be printed or is longer than 500 characters.
    """
    state = _innermost(content)
    if not isinstance(state, Mapping) or not state or not all(map(_is_parameter, state.items())):
        found = type(state).__name__
        if isinstance(state, Mapping):
            found = f'a dict of [{", ".join(map(reprlib.repr, islice(state, 6)))}]'
        raise ValueError(f'{path}: expected named parameters, alone or under one of {NESTS}, found {found}')
    return state


def read_checkpoint(
    path: str | os.PathLike, map_location: str | torch.device | Callable | None = 'cpu', mmap: bool = False
) -> object:
    """Read the whole content of a file of parameters or of a training checkpoint.

    Args:
        path: See :func:`read_state_dict`.
        map_location: Device of the tensors, see ``torch.load``.
        mmap: Whether to map the file into memory instead of copying it, if the format permits. Do not write to the file
            while the tensors are used; replacing it is safe.

    Raises:
        FileNotFoundError, ImportError: As in :func:`read_state_dict`.
        ValueError: If the file is damaged, has another format, or contains other objects than tensors and plain values,
            or parameters that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    content = _read_safetensors(path) if path.suffix == '.safetensors' else _read_pickle(path, map_location, mmap)
    try:
        wrong = _not_finite(content)
    except (RuntimeError, NotImplementedError) as error:  # for meta tensors, and dtypes without arithmetic
        raise ValueError(f'{path}: holds tensors that are not parameters ({error})') from error
    if wrong:
        raise ValueError(
            f'{path}: {len(wrong)} parameters hold NaN or Inf, such as {", ".join(wrong[:3])}: the training '
            'diverged, or the file is damaged. Fix: use another checkpoint'
        )
    try:
        _complete_metadata(content)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f'{path}: the metadata of its parameters (_metadata) is damaged ({error}). Fix: save the state dict '
            'again, without it'
        ) from error
    return content


def _complete_metadata(content: object) -> None:
    """Complete the metadata of state dicts, so that every layer finds the version of its parameters.

    Raises:
        AttributeError, TypeError: If the metadata does not have the format of PyTorch.
    """
    if not isinstance(content, dict):
        return
    meta = content.get('meta')
    if 'state_dict' in content and isinstance(meta, dict) and 'converted_from' in meta:
        # Without metadata, it was converted by a version that doubled the kernels; later versions write metadata.
        content['state_dict'] = _with_dcn_version(content['state_dict'], _DOUBLED_DCN_VERSION)
    for state_dict in (content, *(content.get(nest) for nest in (*NESTS, AVERAGED))):
        metadata = getattr(state_dict, '_metadata', {})
        for name, values in list(metadata.items()):
            if not isinstance(name, str):
                raise TypeError(f'the name {reprlib.repr(name)} is no text')
            if not isinstance(values.get('version'), (int, type(None))):
                raise TypeError(f'the version of {reprlib.repr(name)} is no integer')
            # Loaders remove prefixes of wrappers from keys, but not from the metadata.
            metadata.setdefault(_plain_name(name), metadata[name])


def add_wrapped_names(state_dict: Mapping[str, Tensor], model: nn.Module) -> None:
    """Repeat the metadata of a state dict under the names that layers have in a wrapped model.

    FSDP renames the parameters while it loads them, but not the metadata, so layers would not find their version.

    Args:
        state_dict: State dict that was read by :func:`read_checkpoint`; its metadata is changed in place.
        model: Model that will load it.
    """
    metadata = getattr(state_dict, '_metadata', {})
    for name, _ in model.named_modules():
        if (plain := _plain_name(name)) in metadata:
            metadata.setdefault(name, metadata[plain])


def _plain_name(name: str) -> str:
    """Name of a layer without the names of wrappers, which may also be at its end."""
    return _WRAPPERS.sub('', f'{name}.').removesuffix('.')


def _with_dcn_version(state_dict: Mapping[str, Tensor], version: int) -> Mapping[str, Tensor]:
    """Add the version of the deformable convolutions as metadata, unless the parameters have metadata."""
    if hasattr(state_dict, '_metadata') or not isinstance(state_dict, Mapping):
        return state_dict
    state_dict = OrderedDict(state_dict)
    layers = [key.removesuffix(_DCN_KEY) for key in state_dict if str(key).endswith(_DCN_KEY)]
    state_dict._metadata = OrderedDict((layer, dict(version=version)) for layer in layers)
    return state_dict


def _is_parameter(item: tuple) -> bool:
    key, value = item
    return isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_NAME and isinstance(value, Tensor)


def _not_finite(content: object) -> list[str]:
    """Names of all parameters of a checkpoint with values that are not finite."""
    if not isinstance(content, Mapping):
        return []
    found = [f'{key}' for key, value in content.items() if isinstance(value, Tensor) and not _is_finite(value)]
    return found + [name for nest in (*NESTS, AVERAGED) for name in _not_finite(content.get(nest))]


def _is_finite(value: Tensor) -> bool:
    if value.layout != torch.strided or value.is_quantized or not (value.is_floating_point() or value.is_complex()):
        return True
    for axis, stride in enumerate(value.stride()):
        value = value.narrow(axis, 0, min(value.shape[axis], 1)) if stride == 0 else value  # the rest repeats this
    value = value.float() if value.element_size() == 1 else value
    # A sum is faster, and is finite only if all values are; but a sum of finite values may overflow.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _innermost(content: object) -> object:
    while isinstance(content, Mapping):
        nested = [content[name] for name in NESTS if isinstance(content.get(name), Mapping)]
        if not nested:
            break
        content = nested[0]
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{path}: reading .safetensors needs the package safetensors. Fix: '
            'pip install safetensors (or "mmbirefnet[optional]")'
        ) from error
    try:
        with path.open('rb') as file:
            header = int.from_bytes(file.read(8), 'little')
        if header > _LARGEST_HEADER:
            raise ValueError(f'a header of {header} bytes, more than {_LARGEST_HEADER}')
        return load_file(path)
    except Exception as error:  # SafetensorError, and errors for dtypes that torch lacks, or unusual names
        raise ValueError(
            f'{path}: damaged, or not a safetensors file ({str(error) or type(error).__name__})'
        ) from error


def read_header(path: str | os.PathLike) -> dict:
    """Read what this project wrote in the header of a ``.safetensors`` file; empty for other files.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(path)
    if path.suffix != '.safetensors' or not path.is_file():
        return {}
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        text = (file.metadata() or {}).get(HEADER_KEY, '{}')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{HEADER_KEY} in its header is no JSON ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{HEADER_KEY} in its header is {reprlib.repr(content)}, must be a JSON object')
    return content


def _read_pickle(path: Path, map_location: str | torch.device | Callable | None, mmap: bool) -> object:
    try:
        content = load_guarded(path, map_location, mmap and zipfile.is_zipfile(path))
        _check_sums(path)
        return content
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused is None:
            # torch's message recommends to disable its guard
            reason = f' ({error})' if str(error) and 'weights_only' not in str(error) else ''
            raise ValueError(f'{path}: damaged, or not a PyTorch checkpoint{reason}') from error
        raise ValueError(
            f'{path}: holds objects ({refused[1]}) besides tensors, which could run any code and are not unpickled. '
            'Fix: save the state dict alone'
        ) from error
    except Exception as error:  # torch raises many types of errors for damaged files
        raise ValueError(
            f'{path}: damaged, or not a PyTorch checkpoint ({str(error) or type(error).__name__})'
        ) from error


def _check_sums(path: Path) -> None:
    """Raise ``ValueError`` if a part of a checkpoint differs from its checksum, which torch does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f'checksum of {broken}')


def write_checkpoint(path: str | os.PathLike, state_dict: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint for mmengine atomically.

    Args:
        path: File to write; its folder is created.
        state_dict: Parameters of a model. If they have no metadata (after conversion), those of this version are added.
        meta: Plain values that describe them, such as ``dataset_meta``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(dict(meta=meta, state_dict=_with_dcn_version(state_dict, DCN_VERSION)), temporary)


def misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> str:
    """Describe why parameters do not fit a model; empty if they fit.

    Args:
        found: Parameters of a file.
        wanted: State dict of the model; on the meta device it costs no memory.
        optional: Prefixes of names that may be missing or unexpected.
    """
    missing = [key for key in wanted if key not in found and not key.startswith(optional)]
    unexpected = [key for key in found if key not in wanted and not key.startswith(optional)]
    misshapen = [
        f'{key} is {tuple(found[key].shape)} in the file and {tuple(wanted[key].shape)} in the model'
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    other_kind = [
        f'{key} is {found[key].dtype} in the file and {wanted[key].dtype} in the model'
        for key in wanted
        if key in found and not _can_hold(wanted[key], found[key])
    ]
    problems = {
        'missing': missing,
        'unexpected': unexpected,
        'of another shape': misshapen,
        'of another type': other_kind,
    }
    return '; '.join(
        f'{name} ({len(keys)}): {", ".join(keys[:3])}{" …" if len(keys) > 3 else ""}'
        for name, keys in problems.items()
        if keys
    )


def _can_hold(wanted: Tensor, found: Tensor) -> bool:
    """Whether copying a value into a parameter preserves it up to rounding."""
    exotic = found.is_complex() or found.is_quantized or found.layout != torch.strided
    return not exotic and (found.is_floating_point() or not wanted.is_floating_point())
