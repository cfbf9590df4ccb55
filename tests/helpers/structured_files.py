"""Image files by structure: containers in containers, and sizes that differ from what they claim."""

from __future__ import annotations

import contextlib
import functools
import struct
import zlib

import numpy as np
from bad_files import POSTSCRIPT, encoded, iptc, pixels, png
from fuzz import one_of
from PIL import Image

INTERESTING = (0, 1, 2, 3, 7, 8, 15, 16, 31, 64, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536, 2**20,
               2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)  # fmt: skip
# Formats that Pillow reads and does not write, and some that it passes on to another program or library.
HEADS = {
    'eps': POSTSCRIPT,
    'dos-eps': struct.pack('<II6I', 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0, 0) + POSTSCRIPT,
    'wmf': b'\xd7\xcd\xc6\x9a\0\0' + struct.pack('<4hH', 0, 0, 9, 9, 72) + bytes(6) + b'\1\0\t\0\0\3' + bytes(40),
    'emf': struct.pack('<II', 1, 108) + struct.pack('<8i', 0, 0, 9, 9, 0, 0, 99, 99) + b' EMF' + bytes(64),
    'fits': b'SIMPLE  =                    T'.ljust(80)
    + b'BITPIX  =                    8'.ljust(80)
    + b'NAXIS   =                    2'.ljust(80)
    + b'NAXIS1  =                    8'.ljust(80)
    + b'NAXIS2  =                    8'.ljust(80)
    + b'END'.ljust(2480)
    + bytes(2880),
    'grib': b'GRIB' + bytes(3) + b'\1' + bytes(40),
    'bufr': b'BUFR' + bytes(40),
    'hdf5': b'\x89HDF\r\n\x1a\n' + bytes(60),
    'mpeg': b'\0\0\1\xb3\1\0\x10\x13' + bytes(30),
    'pcd': bytes(2048) + b'PCD_' + bytes(2000),
    'gbr': struct.pack('>6I', 28, 2, 4, 4, 1, 0x47494D50) + struct.pack('>I', 10) + bytes(20),
    'ftex': b'FTEX' + struct.pack('<I2i2i2i', 0x10003, 8, 8, 1, 1, 0, 32) + bytes(64),
    'fli': struct.pack('<IHHHHH', 200, 0xAF12, 2, 8, 8, 8) + bytes(180),
    'mcidas': b'\0\0\0\0\0\0\0\4' + struct.pack('>62i', *range(62)) + bytes(40),
    'pixar': b'\x80\xe8\0\0' + bytes(1020),
    'xvthumb': b'P7 332\n#XVVERSION\n#END_OF_COMMENTS\n4 4 255\n' + bytes(16),
    'imt': b'width 4\nheight 4\n\x0c' + bytes(16),
    'ole': b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1' + bytes(504),
    'psd': b'8BPS' + struct.pack('>H6xHIIHH', 1, 3, 4, 4, 8, 3) + struct.pack('>IIIH', 0, 0, 0, 0) + bytes(48),
    'sun': struct.pack('>8I', 0x59A66A95, 4, 4, 24, 48, 1, 0, 0) + bytes(48),
    'xpm': b'/* XPM */\nstatic char *a[] = {\n"2 2 2 1",\n"a c #ff0000",\n"b c #0000ff",\n"ab",\n"ba"};\n',
    'pfm': b'Pf\n4 4\n-1.0\n' + bytes(64),
    'svg': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    'zip': b'PK\x05\x06' + bytes(18),
}


@functools.cache
def samples() -> dict[str, bytes]:
    """A file of every format that Pillow writes, in several modes, and the heads of those it does not, by name."""
    found = dict(HEADS)
    Image.init()
    for format in sorted(Image.SAVE):
        for mode in ('RGB', 'RGBA', 'L', '1', 'P', 'F'):
            if format == 'ICNS' and mode != 'P':  # 20 to 150 kB
                continue
            with contextlib.suppress(OSError, KeyError, ValueError):  # a format lacks modes, a build lacks formats
                found[f'{mode}.{format.lower()}'] = encoded(Image.fromarray(pixels(4)).convert(mode), format)
    frames = dict(save_all=True, append_images=[Image.fromarray(pixels()).rotate(180)], duration=50)
    for format in ('GIF', 'PNG', 'TIFF', 'WEBP', 'MPO', 'AVIF'):
        with contextlib.suppress(OSError, KeyError, ValueError):
            found[f'frames.{format.lower()}'] = encoded(Image.fromarray(pixels()), format, **frames)
    return found


def tiff(entries: list[tuple[int, int, int, bytes]], data: bytes = b'', order: str = '<') -> bytes:
    """A TIFF of any directory: (tag, type, count, value of 4 bytes or an offset) each; ``data`` begins at byte 8."""
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8 + len(data))
    fields = b''.join(struct.pack(f'{order}HHI', *entry[:3]) + entry[3][:4].ljust(4, b'\0') for entry in entries)
    return head + data + struct.pack(f'{order}H', len(entries)) + fields + bytes(4)


def _tiff_around(rng, content: bytes) -> bytes:
    def long(tag, value):
        return tag, 4, 1, struct.pack('<I', value)

    side = int(one_of(rng, (1, 10, 64, 5000)))
    entries = [long(256, side), long(257, side), long(259, int(one_of(rng, (1, 5, 6, 7, 8, 32773, 34712, 50001))))]
    entries += [long(262, int(one_of(rng, (0, 1, 2, 6)))), long(277, int(one_of(rng, (1, 3, 4))))]
    entries += [long(258, 8)]
    if rng.integers(2):
        tile = int(one_of(rng, (16, 64, 2048, 65536)))
        entries += [long(322, tile), long(323, tile), long(324, 8), long(325, len(content))]
    else:
        entries += [long(273, 8), long(278, side), long(279, len(content))]
    if rng.integers(2):
        entries += [long(513, 8), long(514, len(content))]
    if rng.integers(3) == 0:  # Photoshop's and IPTC's blocks, JPEG tables, sub-directories, profile, XMP
        entries += [
            (int(one_of(rng, (330, 347, 700, 33723, 34377, 34665, 34675))), 7, len(content), struct.pack('<I', 8))
        ]
    return tiff(sorted(entries), content)


def _ico_around(rng, content: bytes) -> bytes:
    side, kind = int(one_of(rng, (0, 1, 16, 255))), int(one_of(rng, (1, 2)))
    return struct.pack('<3H4B2H2I', 0, kind, 1, side, side, 0, 0, 1, 32, len(content), 22) + content


def _icns_around(rng, content: bytes) -> bytes:
    kind = one_of(
        rng, (b'ic07', b'ic08', b'ic09', b'ic10', b'ic11', b'ic13', b'icp4', b'icp5', b'is32', b's8mk', b'TOC ')
    )
    block = kind + struct.pack('>I', 8 + len(content)) + content
    return b'icns' + struct.pack('>I', 8 + len(block)) + block


def _bmp_around(rng, content: bytes) -> bytes:
    compression = int(one_of(rng, (0, 1, 2, 3, 4, 5)))  # 4 and 5: JPEG and PNG inside
    info = struct.pack(
        '<IiiHHIIiiII', 40, 8, 8, 1, int(one_of(rng, (0, 8, 24, 32))), compression, len(content), 0, 0, 0, 0
    )
    return b'BM' + struct.pack('<IHHI', 54 + len(content), 0, 0, 54) + info + content


def _png_around(rng, content: bytes) -> bytes:
    kind = one_of(rng, (b'eXIf', b'iCCP', b'zTXt', b'iTXt', b'tEXt', b'fdAT', b'PLTE', b'tRNS'))
    if kind in (b'iCCP', b'zTXt'):
        content = b'name\0\0' + zlib.compress(content)
    chunk = struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    return png(4, 4, zlib.compress(bytes(52)), extra=chunk)


def _jpeg_around(rng, content: bytes) -> bytes:
    base, content = samples()['RGB.jpeg'], content[:65000]
    marker = int(rng.integers(0xE0, 0xEF))
    head = one_of(
        rng, (b'Exif\0\0', b'ICC_PROFILE\0\1\1', b'MPF\0', b'Photoshop 3.0\0' + b'8BIM\4\4\0\0', b'Adobe', b'')
    )
    return base[:2] + struct.pack('>BBH', 0xFF, marker, 2 + len(head) + len(content)) + head + content + base[2:]


def _riff_around(rng, content: bytes) -> bytes:
    kind = one_of(rng, (b'VP8 ', b'VP8L', b'ALPH', b'ICCP', b'EXIF', b'XMP ', b'ANMF'))
    chunk = kind + struct.pack('<I', len(content)) + content + b'\0' * (len(content) % 2)
    start = b'VP8X' + struct.pack('<I', 10) + bytes([int(rng.integers(256)), 0, 0, 0]) + b'\7\0\0\7\0\0'
    return b'RIFF' + struct.pack('<I', 4 + len(start) + len(chunk)) + b'WEBP' + start + chunk


def _boxes_around(rng, content: bytes) -> bytes:
    brand = one_of(rng, (b'avif', b'heic', b'mif1', b'avis', b'jp2 '))
    start = struct.pack('>I', 16) + b'ftyp' + brand + bytes(4)
    kind = one_of(rng, (b'meta', b'mdat', b'jp2c', b'jp2h', b'moov'))
    signature = b'\0\0\0\x0cjP  \r\n\x87\n' if brand == b'jp2 ' else b''
    return signature + start + struct.pack('>I', 8 + len(content)) + kind + content


def _dcx_around(rng, content: bytes) -> bytes:
    return struct.pack('<III', 0x3ADE68B1, 12, 0) + content


def _blp_around(rng, content: bytes) -> bytes:
    head = b'BLP1' + struct.pack('<iiIIii', 0, 0, 8, 8, 5, 1)
    return (
        head + struct.pack('<16I', 160, *[0] * 15) + struct.pack('<16I', len(content), *[0] * 15) + bytes(4) + content
    )


def _psd_around(rng, content: bytes) -> bytes:
    resource = (
        b'8BIM' + struct.pack('>HHI', int(one_of(rng, (1028, 1033, 1036, 1039, 1058))), 0, len(content)) + content
    )
    head = b'8BPS' + struct.pack('>H6xHIIHH', 1, 3, 4, 4, 8, 3) + struct.pack('>I', 0)
    return head + struct.pack('>I', len(resource)) + resource + struct.pack('>IH', 0, 0) + bytes(48)


def _at_a_place(rng, content: bytes) -> bytes:
    """Inside any file, in place of some of its bytes, or behind its signature, or behind its end."""
    outer = one_of(rng, list(samples().values()))
    start = int(one_of(rng, (4, 8, 12, 16, len(outer), int(rng.integers(len(outer) + 1)))))
    stop = int(one_of(rng, (start, start + len(content), len(outer))))
    return outer[:start] + content + outer[stop:]


AROUND = (_tiff_around, _ico_around, _icns_around, _bmp_around, _png_around, _jpeg_around, _riff_around, _boxes_around,
          _dcx_around, _blp_around, _psd_around, _at_a_place, lambda rng, content: iptc(content[:30000]))  # fmt: skip


def nested(rng: np.random.Generator) -> bytes:
    """A file of any format in one to three containers."""
    content = one_of(rng, list(samples().values()))
    for _ in range(int(rng.integers(1, 4))):
        content = one_of(rng, AROUND)(rng, content)
    return content


def claims(rng: np.random.Generator) -> bytes:
    """A file with numbers of its first or last bytes replaced, checksums of PNG made right again; or an odd TIFF."""
    if rng.integers(8) == 0:
        return _odd_tiff(rng)
    data = bytearray(one_of(rng, list(samples().values())))
    for _ in range(int(rng.integers(1, 4))):
        form = one_of(rng, ('B', '<H', '>H', '<I', '>I', '<Q', '>Q'))
        size = struct.calcsize(form)
        if len(data) < size:
            continue
        near = int(rng.integers(min(len(data) - size + 1, 200)))
        start = near if rng.integers(4) else len(data) - size - near
        value = int(one_of(rng, INTERESTING)) % 256**size
        struct.pack_into(form, data, max(0, start), value)
    return _with_checksums(bytes(data)) if data.startswith(b'\x89PNG') else bytes(data)


def _with_checksums(data: bytes) -> bytes:
    fixed, position = bytearray(data), 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], 'big')
        end = position + 8 + length
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack('>I', zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


def _odd_tiff(rng: np.random.Generator) -> bytes:
    """A directory with sizes, strips and tiles of interesting numbers, and values of any type."""
    tags = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325,
    330, 338,
            339, 347, 513, 514, 529, 530, 34665, 34675)  # fmt: skip
    basic = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    chosen = set(basic) | {int(tag) for tag in rng.choice(tags, int(rng.integers(6)))}
    order = one_of(rng, '<>')
    entries = []
    for tag in sorted(chosen):
        odd = tag not in basic or rng.integers(5) == 0
        value = int(one_of(rng, INTERESTING)) % 2**32 if odd else basic[tag]
        kind, count = (
            (int(rng.integers(1, 18)), int(one_of(rng, INTERESTING)) % 2**32) if rng.integers(8) == 0 else (4, 1)
        )
        entries.append((tag, kind, count, struct.pack(f'{order}I', value)))
    return tiff(entries, bytes(64), order)
