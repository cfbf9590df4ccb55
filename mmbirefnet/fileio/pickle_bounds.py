"""Check how much memory and time loading a checkpoint needs, by reading its pickles without creating objects.

A few kilobytes can require gigabytes (a view that repeats one number, a compressed archive) or years (forty levels of
objects that contain the next one twice). ``torch.load`` creates all of it, also with ``weights_only=True``.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from typing import BinaryIO

MOST_OPERATIONS = 1_000_000  # a Swin-L with optimizer and averages needs less than 200,000
MOST_PARTS = 20_000_000  # shared objects count for each use
DEEPEST = 200
LARGEST_ARGUMENT = 1 << 20  # elements that an argument of a function may request
SMALL = 1 << 20  # elements; views with no more may overlap themselves
LARGEST_REPEATED = 1 << 26  # elements of a view that repeats stored values, such as a parameter of one value
# Bytes per element, by the storage type in a pickle.
_ELEMENT_SIZES = {
    **dict.fromkeys(('ComplexDoubleStorage',), 16),
    **dict.fromkeys(('DoubleStorage', 'LongStorage', 'ComplexFloatStorage'), 8),
    **dict.fromkeys(('FloatStorage', 'IntStorage', 'QInt32Storage'), 4),
    **dict.fromkeys(('HalfStorage', 'BFloat16Storage', 'ShortStorage'), 2),
    **dict.fromkeys(('ByteStorage', 'CharStorage', 'BoolStorage', 'QInt8Storage', 'QUInt8Storage'), 1),
    **dict.fromkeys(('QUInt4x2Storage', 'QUInt2x4Storage', 'UntypedStorage'), 1),
}
_LEGACY_HEADERS = 3  # pickles before the content: magic number, version, machine
_HARMLESS = (None, 'OrderedDict', 'Counter', 'set')  # functions that do not interpret arguments as sizes
_CONSTANTS = {
    **dict.fromkeys(('NONE', 'NEWTRUE', 'NEWFALSE')),
    **dict.fromkeys(('EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'), ()),
}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_VALUES = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'SHORT_BINSTRING')


def check_bounds(file: BinaryIO) -> None:
    """Check that loading a file of ``torch.save`` needs memory and time in proportion to its size.

    Raises:
        pickle.UnpicklingError: If it needs more, or contains what ``torch.save`` does not write; the message gives the
            reason.
        Exception: Various types, for damaged files.
    """
    size = file.seek(0, os.SEEK_END)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        if file.read(1) != pickle.PROTO:  # for example a web page or an image
            raise pickle.UnpicklingError
        file.seek(0)
        for _ in range(_LEGACY_HEADERS):
            _read_pickle(file)
        _check(_read_pickle(file), size)
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:  # torch.save never compresses; overlapping entries are also larger than the file
            raise pickle.UnpicklingError(f'it is compressed, {unpacked} bytes in {size}; save it with torch.save')
        sizes = {entry.filename.partition('/')[2]: entry.file_size for entry in archive.infolist()}
        for entry in archive.infolist():
            if entry.filename.endswith('/data.pkl'):
                _check(_read_pickle(io.BytesIO(archive.read(entry))), size, sizes)


class _Object:
    """An object in a pickle: its parts, and the function that creates it."""

    __slots__ = ('parts', 'function')

    def __init__(self, parts=(), function: str | None = None) -> None:
        self.parts = list(parts)
        self.function = function


def _read_pickle(file) -> list[_Object]:
    """All objects of the next pickle of a binary file, in the order in which they start."""
    stack, marks, memo, objects = [], [], {}, []

    def make(parts=(), function=None) -> _Object:
        objects.append(_Object(parts, function))
        return objects[-1]

    def to_mark() -> list:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        name = operation.name
        if count > MOST_OPERATIONS:
            raise pickle.UnpicklingError(f'it takes more than {MOST_OPERATIONS} steps to read')
        if name in ('PROTO', 'STOP'):
            continue
        if name in ('BINPUT', 'LONG_BINPUT'):
            memo[argument] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(None if _CONSTANTS[name] is None else make())
        elif name == 'GLOBAL':
            stack.append(make(function=argument.rpartition(' ')[2]))
        elif name == 'MARK':
            marks.append(len(stack))
        elif name == 'TUPLE':
            stack.append(make(to_mark()))
        elif name in _TUPLES:
            parts = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            stack.append(make(parts))
        elif name in ('APPENDS', 'SETITEMS'):
            parts = to_mark()
            stack[-1].parts += parts
        elif name in ('APPEND', 'BUILD'):
            part = stack.pop()
            stack[-1].parts.append(part)
        elif name == 'SETITEM':
            value, key = stack.pop(), stack.pop()
            stack[-1].parts += (key, value)
        elif name == 'BINPERSID':
            stack.append(make([stack.pop()], 'storage'))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments, function = stack.pop(), stack.pop()
            stack.append(make([arguments], function.function))
        else:
            raise pickle.UnpicklingError(f'{name} is no operation of torch.save')
    if len(stack) != 1:  # with one object left, it contains all others, which bounds the time for all of them
        raise pickle.UnpicklingError(f'it leaves {len(stack)} objects')
    return objects


def _check(objects: list[_Object], size: int, sizes: dict[str, int] | None = None) -> None:
    """Raise ``pickle.UnpicklingError`` if objects need more than a file of ``size`` bytes justifies.

    Args:
        objects: Objects of the pickle.
        size: Bytes of the file.
        sizes: Bytes of each entry of an archive, by name without its folder; ``None`` if the file is not an archive.
    """
    _check_sharing(objects)
    claimed = 0
    for each in objects:
        if each.function == 'storage':
            _, kind, key, _, stored, *_ = each.parts[0].parts  # 'storage', type, key, device, number of elements
            if not 0 <= stored <= size:
                raise pickle.UnpicklingError(f'a storage claims {stored} elements, the file has {size} bytes')
            if sizes is not None and stored * _ELEMENT_SIZES[kind.function] != (found := sizes[f'data/{key}']):
                raise pickle.UnpicklingError(f'a storage claims {stored} elements, its entry has {found} bytes')
        elif each.function is None and each.parts and getattr(each.parts[0], 'function', None) == 'storage':
            claimed += _claimed_elements(each)  # storage, offset, shape, strides, …: arguments of a tensor
        elif each.function not in _HARMLESS and each.parts and not each.function.startswith('_rebuild'):
            wanted = _product(each.parts[0])
            if wanted > LARGEST_ARGUMENT:
                raise pickle.UnpicklingError(f'{each.function} is asked for {wanted:.0f} elements')
    if claimed > 8 * size + 64 * SMALL:  # parameters may occur several times, as averages or views
        raise pickle.UnpicklingError(f'its tensors claim {claimed:.0f} elements, the file has {size} bytes')


def _claimed_elements(arguments: _Object) -> float:
    """Elements of a tensor, without repetitions along axes of stride 0, which cost nothing to check."""
    storage, _, shape, strides, *_ = arguments.parts
    stored, claimed = storage.parts[0].parts[4], math.prod(map(float, shape.parts))
    distinct = math.prod(float(length) for length, stride in zip(shape.parts, strides.parts) if stride)
    if distinct > max(stored, SMALL) or claimed > max(stored, LARGEST_REPEATED):
        raise pickle.UnpicklingError(f'a tensor claims {claimed:.0f} elements of a storage of {stored}')
    return distinct


def _product(value: object) -> float:
    """Product of all integers in a tuple, including nested tuples."""
    if isinstance(value, _Object):
        return math.prod(map(_product, value.parts)) if value.function is None else 1.0
    return float(max(abs(value), 1)) if isinstance(value, int) else 1.0


def _check_sharing(objects: list[_Object]) -> None:
    """Reject objects that contain themselves, that are too deep, or too many if shared ones count for each use."""
    counts: dict[int, tuple[int, int] | None] = {}  # number of parts and depth by identity; None while they are counted
    for start in objects:
        waiting = [start]
        while waiting:
            each = waiting[-1]
            if counts.get(id(each)):
                waiting.pop()
                continue
            inner = [part for part in each.parts if isinstance(part, _Object)]
            if id(each) not in counts:
                counts[id(each)] = None
                for part in inner:
                    if id(part) not in counts:
                        waiting.append(part)
                    elif counts[id(part)] is None:
                        raise pickle.UnpicklingError('an object contains itself')
                continue
            waiting.pop()
            parts = 1 + len(each.parts) + sum(counts[id(part)][0] for part in inner)
            depth = 1 + max((counts[id(part)][1] for part in inner), default=0)
            if parts > MOST_PARTS or depth > DEEPEST:
                raise pickle.UnpicklingError(f'objects in each other more than {DEEPEST} deep, or too often')
            counts[id(each)] = parts, depth
