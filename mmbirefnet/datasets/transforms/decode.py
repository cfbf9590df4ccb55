"""Reading image and mask files, with errors that name the file."""

from __future__ import annotations

import io

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image

from mmbirefnet.imaging.read import available_formats, jpeg_ends, load_image

_JPEG_START = b'\xff\xd8'
_PNG_START = b'\x89PNG\r\n\x1a\n'
_JPEG2000_STARTS = b'\0\0\0\x0cjP  \r\n\x87\n', b'\xff\x4f\xff\x51'  # in boxes, or the codestream alone
_PNG_COLOR_TYPE = 25  # offset of the colour type; 0 is grey without alpha


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read an image for training and evaluation, by the reader of inference.

    What is transparent is composited on gray, so that training sees what inference sees. Opaque 8-bit gray and RGB
    images are what OpenCV's ``imread`` returns.

    Returns:
        BGR, uint8, (H, W, 3).

    Raises:
        OSError: If the file is missing, empty, truncated, or not an image.
        ValueError: If the image has too many pixels, or 32-bit values out of range.
    """
    data = fileio.get(path, backend_args=backend_args)
    if not data:
        raise OSError(f'{path}: empty file')
    return cv2.cvtColor(load_image(data, str(path)).visible(), cv2.COLOR_RGB2BGR)


def read_mask(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a soft mask without losing a level.

    Colour or palette files are grey where their channels agree, and alpha must be constant then.

    Returns:
        (H, W): uint8 in 0..255; of 16-bit files that 8 bits cannot hold, float32 in [0, 1].

    Raises:
        OSError: The file is missing, empty, truncated or not an image.
        ValueError: It is not a grey mask: channels that differ, varying alpha, class ids, other bit depths.
    """
    data = _read(path, backend_args)
    mask = _decode(data, path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise ValueError(f'{path}: a mask must be grey, but its colour channels differ')
        mask = mask[..., 0].copy()
    if not _has_no_alpha(data):
        raw = _decode(data, path, cv2.IMREAD_UNCHANGED)
        if raw.ndim == 3 and raw.shape[2] == 4 and (raw[..., 3] != raw[0, 0, 3]).any():
            raise ValueError(f'{path}: grey and alpha both vary, which of them is the mask? Save it as grey alone')
    if mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{path}: a mask must have 8 or 16 bits, not {mask.dtype}')
    full, top = np.iinfo(mask.dtype).max, mask.max()
    if top == 1 or (mask.dtype == np.uint16 and 0 < top <= 255):
        raise ValueError(
            f'{path}: values reach {top} only, of {full} for the whole foreground: class ids? Rescale them'
        )
    if mask.dtype == np.uint16:
        levels, rest = np.divmod(mask, 257)
        return mask.astype(np.float32) / 65535 if rest.any() else levels.astype(np.uint8)
    return mask


def mask_to_float(mask: np.ndarray) -> np.ndarray:
    """The fraction of foreground, float32 in [0, 1], of a mask in either form of :func:`read_mask`."""
    return mask if mask.dtype == np.float32 else mask.astype(np.float32) / 255


def _read(path: str, backend_args: dict | None) -> bytes:
    data = fileio.get(path, backend_args=backend_args)
    if not data:
        raise OSError(f'{path}: empty file')
    _precheck(data, path)
    return data


def _precheck(data: bytes, path: str) -> None:
    """Refuse what OpenCV would crash on, and headers, right or not, that declare gigapixels: it would make room."""
    try:
        with Image.open(io.BytesIO(data), formats=available_formats()) as image:
            if image.format == 'JPEG2000':
                image.load()  # OpenCV up to 4.11 at least crashes where it is damaged
    except Image.DecompressionBombError as error:
        raise OSError(f'{path}: {error}; PIL.Image.MAX_IMAGE_PIXELS sets the limit') from error
    except Exception as error:  # of half a dozen types; there are formats that OpenCV alone knows
        if data.startswith((_PNG_START, *_JPEG2000_STARTS)):
            raise OSError(f'{path}: truncated, damaged, or no image that OpenCV can read') from error


def _decode(data: bytes, path: str, flags: int) -> np.ndarray:
    # OpenCV returns None for truncated data, but up to 4.10 at least it fills up a JPEG with grey, and it makes room
    # for a part of a PNG before it looks how much there is.
    complete = jpeg_ends(data) if data.startswith(_JPEG_START) else _png_ends(data) or not data.startswith(_PNG_START)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if complete else None
    except cv2.error as error:  # for example, more pixels than OpenCV allows
        raise OSError(f'{path}: {error}') from error
    if pixels is None:
        raise OSError(f'{path}: truncated, damaged, or no image that OpenCV can read')
    return pixels


def _png_ends(data: bytes) -> bool:
    """Whether the chunks of a PNG file reach its end (PNG specification, 5.3)."""
    position = len(_PNG_START)
    while (kind := data[position + 4 : position + 8]) not in (b'IEND', b''):
        position += 12 + int.from_bytes(data[position : position + 4], 'big')
    return bool(kind)


def _has_no_alpha(data: bytes) -> bool:
    return data.startswith(_JPEG_START) or (data.startswith(_PNG_START) and data[_PNG_COLOR_TYPE] == 0)
