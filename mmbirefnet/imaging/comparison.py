"""A page that compares predictions with sliders: one self-contained HTML file, which needs no server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

_TEMPLATE = Path(__file__).with_name('comparison.html')
_PLACE = '{"versions": [], "images": []}'  # in the template
QUALITY = 90  # of WebP


class ComparedImage(NamedTuple):
    """An image in several versions, each encoded by :func:`encode_version`."""

    name: str
    size: tuple[int, int]
    """(H, W) of the encoded images."""
    original: bytes
    cutouts: list[bytes | None]
    """One for each version; ``None`` for versions that failed."""
    notes: list[str]
    """Text for each version."""


def encode_version(pixels: np.ndarray, longest: int) -> bytes:
    """Encode an image uint8 ``(H, W, 3)`` or ``(H, W, 4)`` as WebP, its longer side reduced to at most ``longest``."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=None)
    file = io.BytesIO()
    image.save(file, 'WEBP', quality=QUALITY, exact=True)
    return file.getvalue()


def build_comparison(versions: list[str], images: Iterable[ComparedImage]) -> str:
    """Build the page.

    Args:
        versions: Names of the models or settings to compare.
        images: Images with as many cut-outs as there are versions.

    Returns:
        HTML, with all names escaped.
    """
    data = dict(
        versions=versions,
        images=[
            dict(
                name=image.name,
                height=image.size[0],
                width=image.size[1],
                original=_url(image.original),
                cutouts=[cutout and _url(cutout) for cutout in image.cutouts],
                notes=image.notes,
            )
            for image in images
        ],
    )
    text = json.dumps(data).replace('<', '\\u003c')  # so that no name contains the end tag of the script
    return _TEMPLATE.read_text('utf-8').replace(_PLACE, text)


def _url(webp: bytes) -> str:
    return f'data:image/webp;base64,{base64.b64encode(webp).decode()}'
