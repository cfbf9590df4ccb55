"""Files as they come: whole ones of every kind, cut off, changed, of another kind than their name says, bombs."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, features

HEIGHT, WIDTH = 20, 28
BOMB_SIDE = 60_000  # 3.6 gigapixels
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n'


class Case(NamedTuple):
    """A file, and what it should be read as: the right pixels (uint8) or an error."""

    name: str
    data: bytes
    whole: bytes | None = None  # what it was cut from: read alike, or an error

    def write(self, folder: Path) -> Path:
        """Write the file, and return its path."""
        path = folder / self.name
        path.write_bytes(self.data)
        return path


def pixels(channels: int = 3, dtype=np.uint8) -> np.ndarray:
    """Smooth colors ``(HEIGHT, WIDTH, channels)``, so that lossy formats keep them."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [y * 8, x * 7, (x + y) * 4, 255 - x * 5][:channels]
    values = np.stack(planes, -1).astype(dtype)
    return values * 257 if dtype == np.uint16 else values


def encoded(image, format: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def intact_images() -> dict[str, bytes]:
    """A whole file of every format, channel layout, depth and number of frames, by name."""
    rgb, rgba = Image.fromarray(pixels()), Image.fromarray(pixels(4))
    gray, gray16 = rgb.convert('L'), cv2.cvtColor(pixels(3, np.uint16), cv2.COLOR_RGB2GRAY)
    frames = dict(save_all=True, append_images=[rgb.rotate(180)], duration=50)
    found = {
        'gray.png': encoded(gray, 'PNG'),
        'rgb.png': encoded(rgb, 'PNG'),
        'rgba.png': encoded(rgba, 'PNG'),
        'gray-alpha.png': encoded(rgba.convert('LA'), 'PNG'),
        'palette.png': encoded(rgb.quantize(16), 'PNG'),
        'palette-alpha.png': encoded(rgb.quantize(16), 'PNG', transparency=3),
        'bits.png': encoded(gray.convert('1'), 'PNG'),
        '16bit.png': cv2.imencode('.png', gray16)[1].tobytes(),
        '16bit-rgb.png': cv2.imencode('.png', pixels(3, np.uint16))[1].tobytes(),
        'animated.png': encoded(rgb, 'PNG', **frames),
        'rgb.jpg': encoded(rgb, 'JPEG', quality=95),
        'progressive.jpg': encoded(rgb, 'JPEG', quality=95, progressive=True),
        'gray.jpg': encoded(gray, 'JPEG', quality=95),
        'cmyk.jpg': encoded(rgb.convert('CMYK'), 'JPEG', quality=95),
        'rgb.bmp': encoded(rgb, 'BMP'),
        'gray.bmp': encoded(gray, 'BMP'),
        'palette.gif': encoded(rgb.quantize(16), 'GIF'),
        'animated.gif': encoded(rgb.quantize(16), 'GIF', **frames),
        'rgb.tif': encoded(rgb, 'TIFF'),
        'lzw.tif': encoded(rgb, 'TIFF', compression='tiff_lzw'),
        'deflate.tif': encoded(rgba, 'TIFF', compression='tiff_adobe_deflate'),
        'cmyk.tif': encoded(rgb.convert('CMYK'), 'TIFF'),
        'lab.tif': encoded(Image.frombytes('LAB', rgb.size, rgb.tobytes()), 'TIFF'),
        '16bit.tif': cv2.imencode('.tif', gray16)[1].tobytes(),
        'float.tif': encoded(Image.fromarray(gray16.astype(np.float32) / 65535), 'TIFF'),
        'pages.tif': encoded(rgb, 'TIFF', **frames),
        'rgb.ppm': encoded(rgb, 'PPM'),
        'gray.pgm': encoded(gray, 'PPM'),
        '16bit.pgm': cv2.imencode('.pgm', gray16)[1].tobytes(),
        'lossy.webp': encoded(rgb, 'WEBP', quality=95),
        'alpha.webp': encoded(rgba, 'WEBP', lossless=True),
        'animated.webp': encoded(rgb, 'WEBP', lossless=True, **frames),
    }
    if features.check('jpg_2000'):
        found['rgb.jp2'] = encoded(rgb, 'JPEG2000')
    if features.check('avif'):
        found['rgb.avif'] = encoded(rgb, 'AVIF', quality=95)
    return found


def lengths(size: int) -> list[int]:
    """Where to cut a file: in its magic, its header, its body, and its last bytes."""
    head = [0, 1, 2, 3, 4, 7, 8, 11, 12, 16, 20, 25, 29, 33, 41, 64]
    body = [size * k // 8 for k in range(1, 8)]
    tail = [size - k for k in (16, 12, 9, 8, 4, 3, 2, 1)]
    return sorted({length for length in (*head, *body, *tail) if 0 <= length < size})


def cut_off(files: dict[str, bytes]) -> Iterator[Case]:
    for name, data in files.items():
        for length in lengths(len(data)):
            yield Case(f'cut{length}-{name}', data[:length], data)


def changed(files: dict[str, bytes], each: int, seed: int = 0) -> Iterator[Case]:
    """Files with some of their bytes replaced, left out or repeated."""
    for number, (name, data) in enumerate(files.items()):
        for index in range(each):
            rng = np.random.default_rng((seed, number, index))
            broken = bytearray(data)
            for position in rng.integers(0, len(data), rng.integers(1, 6)):
                broken[position] ^= 1 << int(rng.integers(8))
            start, stop = sorted(int(x) for x in rng.integers(0, len(data), 2))
            if index % 3 == 1:
                del broken[start:stop]
            elif index % 3 == 2:
                broken[start:start] = broken[start:stop]
            yield Case(f'changed{index}-{name}', bytes(broken))


def mixed(seed: int = 0) -> Iterator[Case]:
    """Files of every format that Pillow writes, with bytes changed and pieces of other formats put in."""
    rng = np.random.default_rng(seed)
    files = {}
    formats = 'AVIF BMP DDS DIB GIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP XBM'
    for format in formats.split():
        for mode in ('RGB', 'RGBA', 'L', '1', 'P'):
            with contextlib.suppress(OSError, KeyError, ValueError):  # a format lacks modes, a build lacks formats
                files[f'{mode}.{format.lower()}'] = encoded(Image.fromarray(pixels(4)).convert(mode), format)
    contents = list(files.values())
    for name, data in files.items():
        broken = bytearray(data)
        other = contents[rng.integers(len(contents))]
        start = int(rng.integers(len(data)))
        broken[start : start + int(rng.integers(1, 40))] = other[: int(rng.integers(1, len(other) + 1))]
        for position in rng.integers(0, min(len(broken), 128), int(rng.integers(5))):
            broken[position] = int(rng.integers(256))
        yield Case(f'mixed{seed}-{name}', bytes(broken))


def wrong_kinds(suffixes: tuple[str, ...]) -> Iterator[Case]:
    """Other files under the names of images."""
    rng = np.random.default_rng(7)
    contents = {
        'empty': b'',
        'zeros': bytes(4096),
        'noise': rng.bytes(4096),
        'text': b'no image\n',
        'html': b'<!DOCTYPE html><html><head><title>404</title></head></html>',
        'svg': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        'pdf': b'%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF',
        'zip': b'PK\x05\x06' + bytes(18),
        'pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 12\n',
        'eps': eps(),
    }
    for suffix in suffixes:
        for kind, data in contents.items():
            yield Case(f'{kind}{suffix}', data)


def eps() -> bytes:
    """A PostScript program, which Pillow would have Ghostscript run."""
    return b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(canary) (w) file closefile\n%%EOF\n'


def bombs() -> Iterator[Case]:
    """Small files that declare gigapixels."""
    side = BOMB_SIDE
    yield Case('bomb.png', png(side, side, zlib.compress(bytes(1 << 16))))
    yield Case('bomb.bmp', b'BM' + struct.pack('<IHHI', 54, 0, 0, 54) + bmp_header(side, side) + bytes(64))
    yield Case('bomb.ppm', b'P6 %d %d 255\n' % (side, side) + bytes(64))
    yield Case('bomb.pgm', b'P5 %d %d 65535\n' % (side, side) + bytes(64))
    gif = bytearray(encoded(Image.new('P', (1, 1)), 'GIF'))
    gif[6:10] = struct.pack('<HH', side, side)
    yield Case('bomb.gif', bytes(gif))
    jpeg = bytearray(encoded(Image.new('RGB', (8, 8)), 'JPEG'))
    start = jpeg.index(b'\xff\xc0') + 5
    jpeg[start : start + 4] = struct.pack('>HH', side, side)
    yield Case('bomb.jpg', bytes(jpeg))
    tiff = bytearray(encoded(Image.new('L', (1, 1)), 'TIFF'))
    (directory,) = struct.unpack('<I', tiff[4:8])
    (entries,) = struct.unpack('<H', tiff[directory : directory + 2])
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        (tag,) = struct.unpack('<H', tiff[entry : entry + 2])
        if tag in (256, 257, 278):  # width, height, rows per strip
            tiff[entry : entry + 12] = struct.pack('<HHII', tag, 4, 1, side)
    yield Case('bomb.tif', bytes(tiff))
    webp = bytearray(encoded(Image.new('RGBA', (1, 1)), 'WEBP', lossless=True))
    webp[21:25] = struct.pack('<I', 16383 - 1 | (16383 - 1) << 14)
    yield Case('bomb.webp', bytes(webp))


def bmp_header(width: int, height: int) -> bytes:
    return struct.pack('<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def png(width: int, height: int, data: bytes, depth: int = 8, color: int = 2, extra: bytes = b'') -> bytes:
    """A PNG file of any header, right or not, around compressed rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + extra + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def odd_headers() -> Iterator[Case]:
    """PNG files whose headers say what cannot be, or not what follows."""
    for width, height in ((0, 5), (5, 0), (0, 0), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 + 5, 4), (10, 1000)):
        yield Case(f'size{width}x{height}.png', png(width, height, zlib.compress(bytes(200))))
    for depth, color in ((8, 1), (8, 5), (3, 0), (16, 3), (1, 2), (0, 0), (255, 255)):
        yield Case(f'depth{depth}color{color}.png', png(4, 4, zlib.compress(bytes(200)), depth, color))
    yield Case('no-palette.png', png(4, 4, zlib.compress(bytes(20)), 8, 3))
    yield Case('not-compressed.png', png(4, 4, b'plain rows'))


NAMES = (
    'a b.png',
    ' leading.png',
    'trailing .png',
    'Ünïcödé.png',
    '图像 🐈.png',
    'a#b.png',
    'a%20b.png',
    'new\nline.png',
    'tab\there.png',
    'quote\'s "double".png',
    'semi;colon&and|pipe.png',
    '$HOME `id`.png',
    '-dash.png',
    'brackets[0].png',
    'star*?.png',
    'dots..many...png',
    'UPPER.PNG',
    'back\\slash.png',
    'colon:b.png',
    'tilde~.png',
    '{braces}.png',
    'e\u0301combining.png',
    'right\u202eto-left.png',
    f'{"long" * 60}.png',
)


def outcome(read, path):
    """What ``read(path)`` gives; ``None`` if it ends in an error that names the file. Any other error is raised."""
    try:
        return read(path)
    except (OSError, ValueError) as error:
        if str(path) not in str(error):
            raise AssertionError(f'{path} is not named by: {error}') from error
        return None


def iptc(content: bytes) -> bytes:
    """Content in an IPTC container, which Pillow's plugin would open as whatever it is."""

    def field(record: int, number: int, data: bytes) -> bytes:
        return struct.pack('>BBBH', 0x1C, record, number, len(data)) + data

    sizes = field(3, 20, struct.pack('>I', 10)) + field(3, 30, struct.pack('>I', 10))
    head = field(3, 60, b'\x01\x00') + sizes + field(3, 120, struct.pack('>I', 5))
    return head + field(8, 10, content) + b'\x1c\x09\x00\x00\x00'


def slow_jpeg(side: int = 4000, scans: int = 2000) -> bytes:
    """A gray progressive JPEG whose last scan is repeated: small, but slow to decode also on a fast machine."""
    buffer = io.BytesIO()
    Image.new('L', (side, side), 100).save(buffer, 'JPEG', progressive=True)
    data = buffer.getvalue()
    start, end = data.rindex(b'\xff\xda'), data.rindex(b'\xff\xd9')
    return data[:end] + data[start:end] * scans + data[end:]
