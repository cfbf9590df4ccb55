"""Synthetic dichotomous segmentation: generated objects with exact soft masks on textured backgrounds.

A sample depends only on (seed, set name, index, size), so sets can be generated in any order, partly, or repeatedly.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmbirefnet.datasets.preparation.synthetic_objects import FULL_SHADE, OBJECTS, Canvas

OBJECT_NAMES = tuple(OBJECTS)
_SCENERY_HUES = (0.05, 0.1, 0.15, 0.25, 0.35, 0.55, 0.6)  # earth, sand, grass, sky
_PAINT_HUES = (0.0, 0.03, 0.08, 0.13, 0.3, 0.4, 0.55, 0.62, 0.9)


class SyntheticSample(NamedTuple):
    """An image with its mask."""

    stem: str
    """File stem in the form of DIS5K: ``12#Synthetic#<kind number>#<kind>#<index>``."""
    image: np.ndarray
    """BGR uint8, (H, W, 3)."""
    mask: np.ndarray
    """Coverage of each pixel by the object times 255, uint8, (H, W)."""


def make_sample(seed: int, set_name: str, index: int, size: tuple[int, int] = (512, 512)) -> SyntheticSample:
    """Generate sample ``index`` (from 0) of a set; the kinds of objects alternate.

    Args:
        seed: Seed of the data set, 0 or greater.
        set_name: Name of the set, such as ``DIS-TR``; different names give different samples.
        index: Index of the sample, 0 or greater.
        size: (height, width) in pixels.
    """
    rng = np.random.default_rng([seed, zlib.crc32(set_name.encode()), index])
    kind = OBJECT_NAMES[index % len(OBJECT_NAMES)]
    canvas = Canvas()
    OBJECTS[kind](canvas, rng)
    supersample = 8 if max(size) <= 1024 else 4
    pixels = canvas.rasterize((size[0] * supersample, size[1] * supersample), supersample * _pose(canvas, size, rng))
    mask = _downsample((pixels > 0).view(np.uint8) * 255, size)
    shade = _downsample(pixels, size).astype(np.float32) / FULL_SHADE  # premultiplied by the coverage

    image = cast_shadow(draw_background(rng, size), mask, rng)
    coverage = mask[..., None].astype(np.float32) / 255
    image = image * (1 - coverage) + draw_surface(rng, size) * shade[..., None]
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(0.004, 0.016)
    image = np.clip(image * 255, 0, 255).astype(np.uint8)
    return SyntheticSample(f'12#Synthetic#{OBJECT_NAMES.index(kind) + 1}#{kind}#{index + 1:06d}', image, mask)


def write_dataset(
    out_dir: str | Path,
    counts: Mapping[str, int],
    size: tuple[int, int] = (512, 512),
    seed: int = 0,
    overwrite: bool = False,
    threads: int = 2,
) -> Iterator[Path]:
    """Write sets in the DIS5K layout: ``<out_dir>/<set>/im/<stem>.jpg`` and ``gt/<stem>.png``.

    Args:
        out_dir: Folder of the sets.
        counts: Number of samples of each set, by name.
        size: (height, width) in pixels.
        seed: Seed of the data set, 0 or greater.
        overwrite: Whether to write into folders that are not empty; files with other names stay.
        threads: Number of samples that are generated at once; they do not depend on it.

    Yields:
        Path of each image after it was written.

    Raises:
        FileExistsError: If the folder of a set is not empty and ``overwrite`` is false. Nothing is written then.
    """
    out_dir = Path(out_dir)
    occupied = [str(out_dir / name) for name in counts if (out_dir / name).is_dir() and any((out_dir / name).iterdir())]
    if occupied and not overwrite:
        raise FileExistsError(
            f'{", ".join(occupied)}: not empty. Fix: choose another folder or pass overwrite (--overwrite)'
        )

    def write(job: tuple[str, int]) -> Path:
        set_name, index = job
        sample = make_sample(seed, set_name, index, size)
        image_path = out_dir / set_name / 'im' / f'{sample.stem}.jpg'
        _write_image(image_path, sample.image, [cv2.IMWRITE_JPEG_QUALITY, 93])
        _write_image(out_dir / set_name / 'gt' / f'{sample.stem}.png', sample.mask, [])
        return image_path

    for name in counts:
        for folder in ('im', 'gt'):
            (out_dir / name / folder).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(write, [(name, index) for name, count in counts.items() for index in range(count)])


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data.tobytes())


def _downsample(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)


def _pose(canvas: Canvas, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Affine map (2, 3) from object coordinates to pixels: fits the object into the frame, rotated and sheared."""
    frame = np.array(size[::-1])
    angle, shear, mirror = rng.normal(0, 0.08), rng.normal(0, 0.06), rng.choice([-1.0, 1.0])
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[mirror, shear], [0, 1]]
    low, high = canvas.bounds(linear)
    scale = rng.uniform(0.85, 0.96) * frame / (high - low)
    scale = np.minimum(scale, 1.2 * scale.min())  # stretch slightly at most
    margin = frame - scale * (high - low)
    return np.column_stack([scale[:, None] * linear, margin * rng.uniform(0.3, 0.7, 2) - scale * low])


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int, octaves: int = 4) -> np.ndarray:
    """Fractal value noise in about [0, 1], float32 (H, W); the coarsest octave has ``cells`` cells on a side."""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        side = cells * 2**octave + 1
        grid = rng.random((side, side), np.float32) - 0.5
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    return total * 0.8 + 0.5


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    """BGR in [0, 1], float32 (3,); hue in turns."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)[::-1], np.float32)


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Pale texture in [0, 1], float32 (H, W, 3): noise, a light gradient, and sometimes a pattern."""
    hue, value = rng.choice(_SCENERY_HUES), rng.uniform(0.6, 0.85)
    near = _color(hue, rng.uniform(0.05, 0.3), value)
    far = _color(
        hue + rng.normal(0, 0.08), rng.uniform(0.05, 0.3), np.clip(value + rng.uniform(-0.25, 0.25), 0.45, 0.95)
    )
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) / min(size)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    texture = _noise(rng, size, int(rng.integers(2, 7)))
    mix = np.clip(texture + 0.6 * (along - along.mean()), 0, 1)
    light = 1 + 0.12 * (_noise(rng, size, 24, 2) - 0.5)
    pattern = rng.choice(['plain', 'stripes', 'tiles', 'horizon'])
    frequency = rng.uniform(3, 9)
    if pattern == 'stripes':
        light += 0.06 * np.sin(2 * np.pi * frequency * (along + 0.05 * texture))
    elif pattern == 'tiles':
        joint = np.minimum(np.abs(np.mod(x * frequency, 1) - 0.5), np.abs(np.mod(y * frequency, 1) - 0.5))
        light *= 0.85 + 0.15 * np.clip(joint * min(size) / frequency / 2, 0, 1)
    elif pattern == 'horizon':
        light *= 1 - rng.uniform(0.15, 0.3) / (1 + np.exp(-(y - rng.uniform(0.5, 0.75)) * 60))
    return (near + (far - near) * mix[..., None]) * light[..., None]


def cast_shadow(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darken the background where the object's soft shadow falls."""
    side = min(mask.shape)
    offset, angle = rng.uniform(0.02, 0.06) * side, rng.uniform(0.2, np.pi - 0.2)
    shift = np.array([[1, 0, offset * np.cos(angle)], [0, 1, offset * np.sin(angle)]])
    shadow = cv2.warpAffine(mask, shift, mask.shape[::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.008, 0.02) * side).astype(np.float32) / 255
    return image * (1 - rng.uniform(0.15, 0.4) * shadow[..., None])


def draw_surface(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Surface of the object in [0, 1], float32 (H, W, 3): dark or strongly colored, with a faint texture."""
    hue = rng.choice(_PAINT_HUES) + rng.normal(0, 0.02)
    if rng.random() < 0.5:
        color = _color(hue, rng.uniform(0.0, 0.5), rng.uniform(0.12, 0.28))
    else:
        color = _color(hue, rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.7))
    other = np.clip(color * rng.uniform(0.75, 1.25) + rng.uniform(-0.04, 0.04, 3), 0, 1).astype(np.float32)
    return color + (other - color) * _noise(rng, size, int(rng.integers(3, 12)))[..., None]
