"""Parts of image files that Pillow and OpenCV do not check, or read only after decoding."""

from __future__ import annotations

import io
import re
import struct
import zlib

from PIL import Image

_JPEG_START = b'\xff\xd8'
_JPEG_MARKER = re.compile(rb'\xff[^\x00\x01\xff\xd0-\xd7]')  # not: stuffing, fill bytes, markers without a segment
_JPEG_END = 0xD9
_ORIENTATION = 0x0112  # EXIF tag


def jpeg_ends(data: bytes) -> bool:
    """Whether the first image of a JPEG file reaches its end marker (ITU-T T.81, annex B)."""
    position = len(_JPEG_START)
    while match := _JPEG_MARKER.search(data, position):
        position = match.end()
        if data[position - 1] == _JPEG_END:
            return True
        position += int.from_bytes(data[position : position + 2], 'big')
    return False


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. The other tags are not read: they may be damaged."""
    if hasattr(image, 'tag_v2'):
        value = image.tag_v2.get(_ORIENTATION, 1)
    else:
        value = _exif_orientation(image.info.get('exif') or b'')
    return value if value in range(1, 9) else 1


def _exif_orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF segment (TIFF 6.0, section 2); 1 if there is none."""
    exif = exif.removeprefix(b'Exif\0\0')
    order = {b'II': '<', b'MM': '>'}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f'{order}4xI', exif)
        (count,) = struct.unpack_from(f'{order}H', exif, start)
        for position in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f'{order}HH', exif, position)
            if tag == _ORIENTATION:
                return struct.unpack_from(order + ('I' if kind == 4 else 'H'), exif, position + 8)[0]
    except struct.error:
        pass
    return 1


def read_png_exif(image: Image.Image, name: str, check: bool = True) -> None:
    """Add the EXIF of a PNG to its ``info``: if it follows the pixels, Pillow reads it only after decoding.

    Raises:
        OSError: If ``check`` is on, and the pixel data differs from its checksums, which Pillow does not verify, or the
            end of the file is missing.
    """
    file, kind = image.fp, b''
    position = file.tell()
    file.seek(8)
    while kind != b'IEND' and len(head := file.read(8)) == 8:
        length, kind = struct.unpack('>I4s', head)
        if kind == b'eXIf':
            image.info['exif'] = file.read(length)
            file.seek(4, io.SEEK_CUR)
        elif kind not in (b'IDAT', b'fdAT') or not check:
            file.seek(length + 4, io.SEEK_CUR)
        elif zlib.crc32(file.read(length), zlib.crc32(kind)).to_bytes(4, 'big') != file.read(4):
            raise OSError(f'{name}: damaged or truncated image (checksum of the pixel data)')
    if check and kind != b'IEND':
        raise OSError(f'{name}: truncated image (its end is missing)')
    file.seek(position)
