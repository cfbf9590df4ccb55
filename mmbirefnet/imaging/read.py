"""Read images of all formats as upright 8-bit RGB, with their alpha and color profile."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmbirefnet.imaging.color_profiles import color_space, to_srgb
from mmbirefnet.imaging.file_structure import jpeg_ends, orientation_of, read_png_exif
from mmbirefnet.imaging.formats import FORMATS

VISIBLE_BEHIND = 128  # gray level behind transparent pixels in the model's input
MAX_PIXELS = 178_956_970  # number of pixels above which Pillow raises an error by default
MAX_SIDE = 2**20  # pixels; OpenCV's limit
_TILE_PIXELS = 2**22  # largest tile of a TIFF file; tiles of up to four times the pixels of the image are allowed too
_AVIF_BRANDS = (b'avif', b'avis')
_HEIF_BRANDS = (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1')
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's flip code by EXIF orientation; from 5 on, after a transpose
_limit_lock = threading.Lock()


class TooManyPixelsError(ValueError):
    """The image has more pixels than allowed; raised before they are decoded."""


@dataclass
class LoadedImage:
    """An image as it is shown.

    Attributes:
        rgb: uint8 ``(H, W, 3)``, EXIF orientation applied.
        alpha: Opacity, uint8 ``(H, W)``; ``None`` for an image that is opaque throughout.
        icc_profile: RGB color profile of ``rgb``; ``None`` stands for sRGB.
        name: Name in messages: its path, or a description of the source.
        path: The file it was read from.
        guide: Coarse mask for a model that takes one, uint8 ``(H, W)``; ``None`` for none.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    name: str = 'image'
    path: Path | None = None
    guide: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.rgb.shape[:2]

    def visible(self) -> np.ndarray:
        """Composite the image on gray: uint8 ``(H, W, 3)``. The colors of transparent pixels are arbitrary."""
        if self.alpha is None:
            return self.rgb
        alpha = self.alpha[..., None].astype(np.float32) / 255
        return np.rint(self.rgb * alpha + VISIBLE_BEHIND * (1 - alpha)).astype(np.uint8)


@dataclass
class LoadedSequence:
    """The frames of an animation as they are shown one after another, or the pages of a TIFF file.

    Attributes:
        frames: The images; two or more.
        durations: Duration of each frame in milliseconds; ``None`` for pages.
        plays: Number of plays of an animation; 0 for endless.
        name: Name in messages.
        path: The file it was read from.
    """

    frames: list[LoadedImage]
    durations: list[float] | None = None
    plays: int = 0
    name: str = 'sequence'
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first image in pixels."""
        return self.frames[0].size


def load_image(
    source, name: str | None = None, channel_order: str = 'bgr', max_pixels: int | None = None
) -> LoadedImage:
    """Read an image; of a file with several frames or pages, the first.

    16-bit channels are scaled to 8 bits. CMYK, Lab, and gray images with a color profile are converted to sRGB. RGB is
    not converted; its profile is kept. Only the formats of :data:`~mmbirefnet.imaging.formats.FORMATS` are opened. See
    :func:`~mmbirefnet.imaging.frames.load_frames` for all frames.

    Args:
        source: Path, bytes of a file, open binary file, PIL image, or array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or
            ``(H, W, 4)`` of uint8, uint16, or floating point in [0, 1].
        name: Name in messages.
        channel_order: Order of the channels of arrays: ``'bgr'`` as in OpenCV and mmseg, or ``'rgb'``.
        max_pixels: Largest image that is decoded from a file; ``None`` for Pillow's limit, 179 million pixels.

    Raises:
        FileNotFoundError, OSError: If the file is missing, damaged, truncated, or not an image.
        TooManyPixelsError: If the file declares more than ``max_pixels``. It is a ``ValueError``.
        ValueError: If an array has another shape, another dtype, or values out of range.
        TypeError: If ``source`` has another type.
    """
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, name or 'array', channel_order)
    if isinstance(source, Image.Image):
        name = name or getattr(source, 'filename', '') or 'PIL image'
        with named_errors(name):
            return image_from_pil(source, name, None)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with open_regular_file(path) as file:
            return load_open_image(file, name or str(path), path, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return load_open_image(io.BytesIO(source), name or 'bytes', None, max_pixels)
    if hasattr(source, 'read'):
        return load_open_image(source, name or getattr(source, 'name', 'file'), None, max_pixels)
    raise TypeError(f'an image is a path, bytes, file, PIL image or array, not {type(source).__name__}')


def open_source(source: str | os.PathLike | bytes) -> io.BufferedIOBase:
    """Open a path or the bytes of a file for reading; errors as :func:`open_regular_file`."""
    return io.BytesIO(source) if isinstance(source, bytes) else open_regular_file(Path(source))


def open_regular_file(path: Path) -> io.BufferedReader:
    """Open a file for reading.

    Raises:
        FileNotFoundError, OSError: If it is missing, empty, or not a regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    if not path.is_file():  # opening a pipe would block
        raise OSError(f'{path}: is not a regular file')
    if not path.stat().st_size:
        raise OSError(f'{path}: empty file')
    try:
        return path.open('rb')
    except OSError as error:
        raise type(error)(f'{path}: {error.strerror}') from error


def read_size(file, name: str, max_pixels: int | None = None) -> tuple[int, int]:
    """Read (H, W) from the header of an open file, with EXIF orientation applied; errors as :func:`load_image`."""
    with named_errors(name), open_image(file, name, max_pixels) as image:
        if image.format == 'PNG':
            read_png_exif(image, name, check=False)
        return image.size if orientation_of(image) >= 5 else image.size[::-1]


def load_open_image(
    file, name: str, path: Path | None = None, max_pixels: int | None = None, allocate: Callable = np.empty
) -> LoadedImage:
    """Read an image from an open file; errors as :func:`load_image`.

    Args:
        allocate: Returns an array of a given shape and dtype, to which the pixels of opaque JPEG and PNG images are
            written. Other images are returned in new arrays.
    """
    with named_errors(name), open_image(file, name, max_pixels) as image:
        if image.format == 'PNG':
            read_png_exif(image, name)
        if _is_plain(image):
            return _from_opencv(image, name, path, allocate)
        return image_from_pil(image, name, path, max_pixels)


def _is_plain(image: Image.Image) -> bool:
    """Whether OpenCV reads the image: opaque gray or RGB in JPEG or PNG, without a profile that must be applied.

    The reference trains and evaluates on pixels that OpenCV decodes, and builds of libjpeg may differ by a gray level.
    """
    return (
        image.format in ('JPEG', 'MPO', 'PNG')
        and image.mode in ('L', 'RGB')
        and 'transparency' not in image.info
        and color_space(image.info.get('icc_profile')) in ('', 'RGB ')
        and not (image.format == 'PNG' and image.is_animated)
    )


def _from_opencv(image: Image.Image, name: str, path: Path | None, allocate: Callable) -> LoadedImage:
    image.fp.seek(0)
    data = image.fp.read()
    # OpenCV before 4.11 fills the rest of a truncated JPEG with gray.
    if image.format != 'PNG' and not jpeg_ends(data):
        raise OSError(f'{name}: truncated or damaged image')
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f'{name}: {error}') from error
        raise
    if pixels is None:
        raise OSError(f'{name}: truncated or damaged image')
    pixels = _upright(pixels, orientation_of(image))
    # Not in place: OpenCV would first copy the pixels to memory that takes longer to allocate than NumPy's.
    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=allocate(pixels.shape, np.uint8))
    return LoadedImage(rgb, None, image.info.get('icc_profile') or None, name, path)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation to stored pixels ``(H, W)`` or ``(H, W, C)``."""
    if orientation >= 5:
        array = cv2.transpose(array)
    return cv2.flip(array, _FLIPS[orientation]) if orientation in _FLIPS else array


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Convert Pillow's errors to ``OSError`` or ``ValueError`` with the name of the image."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f'{name}: {error}; max_pixels=… or PIL.Image.MAX_IMAGE_PIXELS sets the limit'
        ) from error
    except (MemoryError, TooManyPixelsError):
        raise
    except Exception as error:  # Pillow raises many types of errors for damaged files
        if str(error).startswith(f'{name}: '):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(f'{name}: damaged or unreadable image ({error})') from error


def open_image(file, name: str, max_pixels: int | None) -> Image.Image:
    """Read the header of an image, only with plugins for ``FORMATS``; errors as :func:`load_image`."""
    head = file.read(16)
    file.seek(0)
    if head.startswith(b'%!PS'):
        raise OSError(f'{name}: PostScript is a program, which is not run. Fix: convert it to an image')
    if _is_heif(head):
        _register_heif(name)
    if head[4:8] == b'ftyp' and head[8:12] in _AVIF_BRANDS and 'AVIF' not in available_formats():
        raise OSError(f"{name}: this build of Pillow does not read AVIF. Fix: pip install 'mmbirefnet[formats]'")
    try:
        with _pillow_limit(max_pixels):
            image = Image.open(file, formats=available_formats())
    except Image.UnidentifiedImageError as error:
        raise OSError(
            f'{name}: not an image that can be read (empty, damaged, or of a format outside {", ".join(FORMATS)})'
        ) from error
    _check_pixels(image.size, name, max_pixels)
    check_tile(image, name)
    return image


def check_tile(image: Image.Image, name: str) -> None:
    """Raise ``OSError`` if the tiles of a TIFF are far larger than the image, since a whole tile is decoded at once."""
    tile = [getattr(image, 'tag_v2', {}).get(tag, 0) for tag in (322, 323)]  # TileWidth, TileLength
    if np.prod(tile, dtype=float) > max(_TILE_PIXELS, 4 * image.width * image.height):
        raise OSError(f'{name}: damaged image ({tile[0]}x{tile[1]} tiles in {image.width}x{image.height} pixels)')


def available_formats() -> list[str]:
    """Names of the ``FORMATS`` that this build of Pillow can open."""
    Image.init()
    return [format for format in FORMATS if format in Image.OPEN]


def has_image_signature(path: Path) -> bool:
    """Whether a file begins with the signature of one of ``FORMATS``; some formats have none."""
    try:
        with open_regular_file(path) as file:
            head = file.read(16)
    except OSError:
        return False
    return suffix_of(head) is not None


def suffix_of(head: bytes) -> str | None:
    """Usual suffix of an image that begins with these bytes (at least 16); ``None`` if it is not recognized."""
    head = head[:16]
    if len(head) < 16:  # some plugins unpack numbers from the header
        return None
    if _is_heif(head):
        return '.heic'
    for format in available_formats():
        accept = Image.OPEN[format][1]
        if accept is not None and accept(head) is True:
            return FORMATS[format][0]
    return None


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b'ftyp' and head[8:12] in _HEIF_BRANDS


def _register_heif(name: str) -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise OSError(
            f"{name}: HEIC and HEIF need the package pillow-heif. Fix: pip install 'mmbirefnet[formats]'"
        ) from error
    pillow_heif.register_heif_opener()


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    if max(size) > MAX_SIDE:
        raise TooManyPixelsError(f'{name}: {size[0]}x{size[1]} pixels; no side may be longer than {MAX_SIDE}')
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise TooManyPixelsError(
            f'{name}: {size[0]}x{size[1]} pixels, more than the limit of {max_pixels} (max_pixels, --max-pixels)'
        )


@contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Disable Pillow's limit, which is global, while a header is read; our own limit is checked afterwards."""
    if max_pixels is None:
        yield
        return
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def image_from_pil(
    image: Image.Image, name: str, path: Path | None = None, max_pixels: int | None = None
) -> LoadedImage:
    """Decode the current frame of an opened image with Pillow; errors as :func:`load_image`."""
    image.load()
    _check_pixels(image.size, name, max_pixels)  # the image of an icon may be larger than its header declares
    if image.mode == 'P' and not image.getpalette():
        raise OSError(f'{name}: damaged image (it has no palette)')
    profile = image.info.get('icc_profile') or None
    orientation = orientation_of(image)
    image = _eight_bits(image, name)
    alpha = None
    if image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or image.has_transparency_data:
        image = image.convert('RGBA')
        alpha = np.array(image.getchannel('A'))
        alpha = None if alpha.min() == 255 else _upright(alpha, orientation)
        # The profile of a gray image has one channel.
        image = image.convert('L' if color_space(profile) == 'GRAY' else 'RGB')
    elif image.mode == 'P':
        image = image.convert('RGB')
    if (profile and color_space(profile) != 'RGB ') or image.mode == 'LAB':
        image, profile = to_srgb(image, profile, name), None
    return LoadedImage(_upright(np.array(image.convert('RGB')), orientation), alpha, profile, name, path)


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale channels of more than 8 bits; Pillow's own conversion clips them."""
    if image.mode.startswith('I;16'):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ('I', 'F'):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        top = 65535 if image.mode == 'I' else 1
        if not (low >= 0 and high <= top):
            raise ValueError(f'{name}: values from {low} to {high} of 32 bits; must be in 0..{top}')
        return Image.fromarray((values >> 8 if image.mode == 'I' else np.rint(values * 255)).astype(np.uint8))
    return image


def _from_array(array: np.ndarray, name: str, channel_order: str) -> LoadedImage:
    if channel_order not in ('bgr', 'rgb'):
        raise ValueError(f"channel_order={channel_order!r}, must be 'bgr' or 'rgb'")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f'{name}: an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {array.shape}')
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f'{name}: floating-point values must be in [0, 1], not {array.min()} to {array.max()}')
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f'{name}: an array must be uint8, uint16 or floating point, not {array.dtype}')
    array = array.reshape(*array.shape[:2], channels)
    alpha = array[..., 3] if channels == 4 and array[..., 3].min() < 255 else None
    colors = np.repeat(array, 3, 2) if channels == 1 else array[..., :3]
    if channels > 1 and channel_order == 'bgr':
        colors = colors[..., ::-1]
    return LoadedImage(np.ascontiguousarray(colors), None if alpha is None else alpha.copy(), None, name)
