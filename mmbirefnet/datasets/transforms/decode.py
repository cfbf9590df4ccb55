"""Reading of image and mask files, with errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from mmengine import fileio
from mmengine.fileio import LocalBackend
from PIL import Image

from mmbirefnet.imaging.file_structure import jpeg_ends
from mmbirefnet.imaging.read import available_formats, load_image, open_regular_file, read_size

_JPEG_START = b'\xff\xd8'
_PNG_START = b'\x89PNG\r\n\x1a\n'
_JPEG2000_STARTS = b'\0\0\0\x0cjP  \r\n\x87\n', b'\xff\x4f\xff\x51'  # in boxes, or the codestream alone
_PNG_COLOR_TYPE = 25  # offset of the color type; 0 is gray without alpha
_TIFF_STARTS = b'II', b'MM'
_ORIENTATION = 0x0112  # EXIF tag
_SAME_COLOR = 0.03  # of white; lossy WebP changes colors slightly
_MOST_IDS = 16
_NEAR_WHITE = 224


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read an image for training and evaluation, with the reader of inference.

    Transparent pixels are composited on gray, as in inference. Opaque 8-bit gray and RGB images equal those of OpenCV's
    ``imread``.

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


def read_image_size(path: str, backend_args: dict | None = None) -> tuple[int, int]:
    """Width and height in pixels of the image that :func:`read_image` returns, from the header of the file.

    Raises:
        OSError, ValueError: As in :func:`read_image`.
    """
    local = isinstance(fileio.get_file_backend(path, backend_args=backend_args), LocalBackend)
    data = open_regular_file(Path(path)) if local else io.BytesIO(fileio.get(path, backend_args=backend_args))
    with data as file:
        height, width = read_size(file, str(path))
    return width, height


def read_mask(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a soft mask as the fraction of foreground, float32 (H, W) in [0, 1], for losses and metrics.

    Raises:
        OSError, ValueError: As in :func:`read_mask_levels`.
    """
    return mask_to_float(read_mask_levels(path, backend_args))


def read_mask_levels(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a soft mask without losing gray levels, in the smallest dtype, for the augmentations.

    Color and palette images are accepted if their channels are equal. If alpha varies, it is the mask, and the visible
    color must be constant.

    Returns:
        (H, W): uint8 in 0..255, or float32 in [0, 1] for 16-bit files that do not fit into 8 bits.

    Raises:
        OSError: If the file is missing, empty, truncated or not an image.
        ValueError: If it is not a mask: different channels, color and alpha that both vary, class ids, or another bit
            depth.
    """
    data = _read(path, backend_args)
    mask = _decode(data, path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    alpha = _alpha(data, path)
    if alpha is not None and (alpha != alpha[0, 0]).any():
        mask = _mask_in_alpha(mask, alpha, data, path)
    elif mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise ValueError(f'{path}: a mask must be gray, but its color channels differ')
        mask = mask[..., 0].copy()
    if mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{path}: a mask must have 8 or 16 bits, not {mask.dtype}')
    if ids := _class_ids(mask):
        raise ValueError(
            f'{path}: holds {ids}, not gray levels up to {np.iinfo(mask.dtype).max}: class ids? Fix: save a mask whose '
            'object is white (255), for example np.where(ids == wanted, 255, 0)'
        )
    if mask.dtype == np.uint16:
        levels, rest = np.divmod(mask, 257)
        return mask.astype(np.float32) / 65535 if rest.any() else levels.astype(np.uint8)
    return mask


def read_map(path: str) -> np.ndarray:
    """Read a prediction: gray levels, or the alpha of a cut-out.

    The prediction is the alpha, unless the image is gray and opaque.

    Returns:
        uint8, (H, W).

    Raises:
        OSError: If the file is missing, empty, truncated or not an image.
    """
    data = _read(path, None)
    image = _decode(data, path, cv2.IMREAD_COLOR)
    alpha = _alpha(data, path)
    if alpha is None or (alpha.min() == np.iinfo(alpha.dtype).max and (image == image[..., :1]).all()):
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return (alpha >> 8).astype(np.uint8) if alpha.dtype == np.uint16 else alpha


def mask_to_float(mask: np.ndarray) -> np.ndarray:
    """Convert a mask of :func:`read_mask_levels` to the fraction of foreground, float32 in [0, 1]."""
    return mask if mask.dtype == np.float32 else mask.astype(np.float32) / 255


def _read(path: str, backend_args: dict | None) -> bytes:
    data = fileio.get(path, backend_args=backend_args)
    if not data:
        raise OSError(f'{path}: empty file')
    _precheck(data, path)
    return data


def _precheck(data: bytes, path: str) -> None:
    """Reject files that crash OpenCV, incomplete PNG files, and headers that declare gigapixels.

    OpenCV allocates the declared size before it checks how much data there is.
    """
    try:
        with Image.open(io.BytesIO(data), formats=available_formats()) as image:
            if image.format == 'JPEG2000':
                image.load()  # OpenCV (at least up to 4.11) crashes if it is damaged
            image.verify()  # the checksums of a PNG, up to its end
    except Image.DecompressionBombError as error:
        raise OSError(f'{path}: {error}; PIL.Image.MAX_IMAGE_PIXELS sets the limit') from error
    except Exception as error:  # errors of many types; only OpenCV supports some formats
        if data.startswith((_PNG_START, *_JPEG2000_STARTS)):
            raise OSError(f'{path}: truncated, damaged, or not an image that OpenCV can read') from error


def _decode(data: bytes, path: str, flags: int) -> np.ndarray:
    # OpenCV returns None for truncated data, but (at least up to 4.10) fills truncated JPEGs with gray.
    complete = jpeg_ends(data) or not data.startswith(_JPEG_START)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if complete else None
    except cv2.error as error:  # for example, more pixels than OpenCV allows
        raise OSError(f'{path}: {error}') from error
    if pixels is None:
        raise OSError(f'{path}: truncated, damaged, or not an image that OpenCV can read')
    return pixels


def _has_no_alpha(data: bytes) -> bool:
    return data.startswith(_JPEG_START) or (data.startswith(_PNG_START) and data[_PNG_COLOR_TYPE] == 0)


def _alpha(data: bytes, path: str) -> np.ndarray | None:
    """The alpha of an image as stored, (H, W); ``None`` if it has none."""
    if _has_no_alpha(data):
        return None
    raw = _decode(data, path, cv2.IMREAD_UNCHANGED)
    return raw[..., 3].copy() if raw.ndim == 3 and raw.shape[2] == 4 else None


def _mask_in_alpha(color: np.ndarray, alpha: np.ndarray, data: bytes, path: str) -> np.ndarray:
    """Return the alpha as the mask; the visible color must be constant."""
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    if turned:  # OpenCV rotates colors, but not alpha
        raise ValueError(
            f'{path}: alpha with an EXIF orientation. Fix: save the mask as an upright gray image without alpha'
        )
    white = np.iinfo(color.dtype).max
    if data.startswith(_TIFF_STARTS):  # OpenCV multiplies their colors by alpha
        seen = alpha > white // 8  # smaller alphas leave too few levels to divide
        colors = color[seen] * (white / alpha[seen].reshape(-1, *[1] * (color.ndim - 2)))
    else:
        colors = color[alpha > 0]
    same_color = not len(colors) or np.ptp(colors, axis=0).max() <= white * _SAME_COLOR
    if not same_color:
        raise ValueError(
            f'{path}: color and alpha both vary, which of them is the mask? Fix: save it as a gray image without alpha'
        )
    return alpha


def _class_ids(mask: np.ndarray) -> str:
    """The values of a mask as text if they are class ids; empty if they are gray levels.

    There are few class ids, none is near white (except 255 for ignored pixels), and each covers an area.
    """
    if mask.dtype == np.uint16:
        top = int(mask.max())
        return f'values up to {top}' if 0 < top <= 255 else ''
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[1:]
    (levels,) = np.nonzero(counts)
    if not len(levels) or len(levels) > _MOST_IDS or counts.sum() < 4 * len(levels) and levels[-1] != 0:
        return ''
    ignored = counts[254] > 0 and counts[:63].sum() > counts[63:].sum()
    if levels[-1] + 1 >= _NEAR_WHITE and not ignored:
        return ''
    values = ', '.join(str(level + 1) for level in levels[:8])
    return f'the values {values}{", …" if len(levels) > 8 else ""} alone'
