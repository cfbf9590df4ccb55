"""Color profiles (ICC.1) of images."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageCms


def color_space(profile: bytes | None) -> str:
    """Color space signature in the header of an ICC profile (ICC.1, 7.2.6)."""
    return profile[16:20].decode('latin-1') if profile else ''


def to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Convert an image from its profile (Lab if it has none) to sRGB; if that fails, return it with a warning."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile('LAB')
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile('sRGB'), outputMode='RGB')
    except (ImageCms.PyCMSError, OSError) as error:
        warnings.warn(f'{name}: the color profile does not fit the {image.mode} pixels: {error}', stacklevel=2)
        return image


def convert_profile(pixels: np.ndarray, source: bytes | None, target: bytes | None) -> np.ndarray:
    """Convert uint8 RGB ``(H, W, 3)`` from one RGB color profile to another; ``None`` stands for sRGB.

    A profile that cannot be used counts as sRGB, with a warning.
    """
    if source == target:
        return pixels
    try:
        profiles = [
            ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile('sRGB')
            for profile in (source, target)
        ]
        return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), *profiles))
    except (ImageCms.PyCMSError, OSError) as error:
        warnings.warn(f'the background is not converted: a color profile cannot be used ({error})', stacklevel=2)
        return pixels
