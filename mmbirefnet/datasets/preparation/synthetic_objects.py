"""Thin, perforated and branching objects drawn as vectors, for the synthetic data set.

Every ``draw_*`` function draws one object into a :class:`Canvas`, in object coordinates: the object fills about
[-1, 1] x [-1, 1] and y points down. No stroke is thinner than ``MIN_WIDTH`` units, so an object in an image of 256
pixels has strokes of about five pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

MIN_WIDTH = 0.05
FULL_SHADE = 110.0  # pixel value of shade 1; leaves room for highlights up to 255 / 110
_SUBPIXEL_BITS = 4


class Canvas:
    """Vector drawing: filled polygons, each with a shade, painted over each other.

    Points are arrays or sequences (K, 2) in object coordinates.
    """

    def __init__(self) -> None:
        self._shapes: list[tuple[list[np.ndarray], int]] = []

    def rasterize(self, size: tuple[int, int], affine: np.ndarray) -> np.ndarray:
        """Paint without anti-aliasing.

        Args:
            size: (height, width) in pixels.
            affine: Array (2, 3), object coordinates (x, y, 1) to pixel coordinates (x, y) with the origin at the
                first pixel's corner.

        Returns:
            Array (height, width), uint8: the shade times ``FULL_SHADE``; 0 for the background.
        """
        pixels = np.zeros(size, np.uint8)
        for outlines, value in self._shapes:
            fixed = [
                np.rint((_apply(affine, points) - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32) for points in outlines
            ]
            cv2.fillPoly(pixels, fixed, value, shift=_SUBPIXEL_BITS)
        return pixels

    def bounds(self, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest (x, y) of all polygons after the linear map ``linear`` (2, 2)."""
        points = np.concatenate([outlines[0] for outlines, value in self._shapes if value]) @ linear.T
        return points.min(0), points.max(0)

    def _fill(self, outlines: Sequence[np.ndarray], shade: float) -> None:
        value = int(np.clip(shade * FULL_SHADE, 1, 255)) if shade > 0 else 0
        self._shapes.append(([np.asarray(outline, float) for outline in outlines], value))

    def polygon(self, points: np.ndarray, shade: float = 1.0) -> None:
        """Fill a simple polygon; shade 0 cuts a hole."""
        self._fill([points], shade)

    def disc(self, center: Sequence[float], radius: float, shade: float = 1.0) -> None:
        self.polygon(circle_points(center, radius, 32), shade)

    def band(self, outer: np.ndarray, inner: np.ndarray, shade: float = 1.0) -> None:
        """Fill between two nested closed outlines."""
        self._fill([outer, inner], shade)

    def ring(self, center: Sequence[float], radii: Sequence[float], width: float, shade: float = 1.0) -> None:
        """Elliptic ring; ``radii`` (x, y) are those of its outer edge."""
        outline = ellipse((0, 0), (1, 1))
        center, radii = np.asarray(center, float), np.asarray(radii, float)
        self.band(center + outline * radii, center + outline * (radii - width), shade)
        self.band(center + outline * (radii - 0.2 * width), center + outline * (radii - 0.55 * width), 1.35 * shade)

    def stroke(self, points: np.ndarray, width: float | Sequence[float], shade: float = 1.0) -> None:
        """Round-capped tube along points (K, 2), lit from the upper left; ``width`` may vary per point."""
        points = np.asarray(points, float)
        widths = np.broadcast_to(np.asarray(width, float), len(points))
        self._flat_stroke(points, widths, shade)
        self._flat_stroke(points - 0.12 * widths[:, None], 0.4 * widths, 1.35 * shade)

    def _flat_stroke(self, points: np.ndarray, widths: np.ndarray, shade: float) -> None:
        for start, end, a, b in zip(points[:-1], points[1:], widths[:-1], widths[1:], strict=True):
            along = end - start
            normal = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9) / 2
            self.polygon(np.stack([start + a * normal, end + b * normal, end - b * normal, start - a * normal]), shade)
        for point, width in zip(points, widths, strict=True):
            self.disc(point, width / 2, shade)


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:, :2].T + affine[:, 2]


def ellipse(center: Sequence[float], radii: Sequence[float], start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
    """Points (96, 2) on an elliptic arc from ``start`` to ``stop`` radians."""
    angle = np.linspace(start, stop, 96)
    return np.asarray(center) + np.stack([np.cos(angle), np.sin(angle)], 1) * np.asarray(radii)


def circle_points(center: Sequence[float], radius: float, count: int, phase: float = 0.0) -> np.ndarray:
    """``count`` evenly spaced points (count, 2) on a circle."""
    angle = phase + 2 * np.pi * np.arange(count) / count
    return np.asarray(center) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def draw_wheel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Rim, hub and straight, crossed or curved spokes."""
    count, rim, hub = int(rng.integers(6, 15)), rng.uniform(0.1, 0.18), rng.uniform(0.12, 0.22)
    width, twist = rng.uniform(0.055, 0.085), rng.choice([0.0, 0.5, 1.0])
    inner, outer = circle_points((0, 0), hub, count), circle_points((0, 0), 1 - rim / 2, count, twist * np.pi / count)
    for index in range(count):
        canvas.stroke(np.stack([inner[index], outer[index]]), width)
        if twist == 1.0:
            canvas.stroke(np.stack([inner[index], outer[index - 1]]), width)
    canvas.ring((0, 0), (1, 1), rim, rng.uniform(0.6, 1.0))
    canvas.disc((0, 0), hub, 0.85)
    canvas.disc((-0.02, -0.02), 0.7 * hub, 1.15)
    canvas.disc((0, 0), 0.3 * hub, 0)


def draw_fence(canvas: Canvas, rng: np.random.Generator) -> None:
    """Wooden pickets, or iron bars with spear heads, on two or three rails."""
    iron, count, top = bool(rng.random() < 0.5), int(rng.integers(6, 10)), rng.uniform(-0.9, -0.65)
    width = rng.uniform(0.07, 0.1) if iron else rng.uniform(0.13, 0.17)
    for y in np.linspace(top + 0.35, 0.55, int(rng.integers(2, 4))):
        canvas.stroke([(-1.02, y), (1.02, y)], 0.08, 0.8)
    for index, x in enumerate(np.linspace(-0.93, 0.93, count)):
        shade, post = rng.uniform(0.9, 1.1), iron and index in (0, count - 1)
        if iron:
            canvas.stroke([(x, top), (x, 0.8)], 1.6 * width if post else width, shade)
            tip = 0.11 if post else 0.075
            canvas.polygon(
                [(x, top - 0.22), (x + tip, top - 0.04), (x, top + 0.05), (x - tip, top - 0.04)], 1.1 * shade
            )
        else:
            half = width / 2
            outline = [(x - half, 0.85), (x - half, top), (x, top - width), (x + half, top), (x + half, 0.85)]
            canvas.polygon(outline, shade)
            canvas.polygon(
                [(x - half, 0.85), (x - half, top), (x - 0.3 * half, top - 0.5 * width), (x - 0.3 * half, 0.85)],
                1.25 * shade,
            )


def draw_tree(canvas: Canvas, rng: np.random.Generator) -> None:
    """Branches that fork and taper, bare or with small leaves."""
    leaves = bool(rng.random() < 0.5)

    def grow(base: np.ndarray, angle: float, length: float, width: float, depth: int) -> None:
        bend = angle + rng.uniform(-0.15, 0.15)
        middle = base + 0.5 * length * np.array([np.sin(bend), -np.cos(bend)])
        tip = middle + 0.5 * length * np.array([np.sin(angle), -np.cos(angle)])
        end = max(0.68 * width, MIN_WIDTH)
        canvas.stroke(np.stack([base, middle, tip]), [width, (width + end) / 2, end], rng.uniform(0.85, 1.05))
        if depth == 0:
            if leaves:
                for _ in range(3):
                    canvas.disc(tip + rng.normal(0, 0.07, 2), rng.uniform(0.05, 0.09), rng.uniform(1.0, 1.5))
            return
        spread = rng.uniform(0.35, 0.6)
        for side in (-1, 1) if rng.random() < 0.6 else (-1, 0, 1):
            child = (0.8 * angle) + side * spread + rng.uniform(-0.12, 0.12)
            grow(tip, child, length * rng.uniform(0.7, 0.82), end, depth - 1)

    grow(np.array([0.0, 1.0]), rng.uniform(-0.08, 0.08), rng.uniform(0.52, 0.6), rng.uniform(0.19, 0.25), 4)


def draw_chair(canvas: Canvas, rng: np.random.Generator) -> None:
    """Four legs, stretchers, a seat, and a slatted back, seen from above one corner."""
    yaw, pitch = rng.uniform(0.25, 0.75) * rng.choice([-1, 1]), rng.uniform(0.2, 0.35)
    project = _projection(yaw, pitch)
    half, seat, back, width = rng.uniform(0.5, 0.58), 0.02, rng.uniform(0.95, 1.1), rng.uniform(0.085, 0.12)
    corners = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])  # (x, depth); the back is at -half

    def bar(start: Sequence[float], end: Sequence[float], size: float, shade: float = 1.0) -> None:
        canvas.stroke(project(np.array([start, end])), size, shade)

    level = rng.uniform(-0.7, -0.45)
    for index in (0, 1, 3, 2):
        (x, z), (x2, z2) = corners[index], corners[(index + 1) % 4]
        bar((x, level, z), (x2, level, z2), 0.06, 0.75)
    for (x, z), shade in zip(corners[[0, 1, 3, 2]], (0.75, 0.75, 1.0, 1.0), strict=True):
        bar((x, -0.95, z), (x, seat, z), width, shade)
    canvas.polygon(project(np.array([(x * 1.1, seat, z * 1.1) for x, z in corners])), 1.2)
    for index in (1, 2, 3):
        (x, z), (x2, z2) = corners[index] * 1.1, corners[(index + 1) % 4] * 1.1
        bar((x, seat, z), (x2, seat, z2), 0.075, 0.85)
    for x in (-half, half):
        bar((x, seat, -half), (x, back, -half), width)
    if rng.random() < 0.5:
        for y in np.linspace(0.3, back - 0.06, int(rng.integers(3, 5))):
            bar((-half, y, -half), (half, y, -half), 0.09, 1.05)
    else:
        bar((-half, 0.22, -half), (half, 0.22, -half), 0.08)
        for x in np.linspace(-half, half, int(rng.integers(5, 7)))[1:-1]:
            bar((x, 0.22, -half), (x, back, -half), 0.06, 0.95)
        bar((-half, back, -half), (half, back, -half), 0.13, 1.05)


def draw_goal(canvas: Canvas, rng: np.random.Generator) -> None:
    """Football goal: posts, crossbar and a sagging net."""
    project = _projection(rng.uniform(0.15, 0.5) * rng.choice([-1, 1]), rng.uniform(0.05, 0.15))
    top, depth, post = rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.8), rng.uniform(0.09, 0.13)
    columns, rows = int(rng.integers(8, 11)), int(rng.integers(6, 8))
    u, v = np.meshgrid(np.linspace(-0.97, 0.97, columns), np.linspace(0, 1, rows))
    sag = rng.uniform(0.05, 0.15) * np.sin(np.pi * v) * (1 - u**2)
    net = np.stack([u, top - v * (top + 0.6) - sag * 0.3, -depth * np.sqrt(v) - sag], -1)
    for line in [*net, *net.transpose(1, 0, 2)]:
        canvas.stroke(project(line), MIN_WIDTH, 1.05)
    frame = np.array([(-0.97, -0.6, 0), (-0.97, top, 0), (0.97, top, 0), (0.97, -0.6, 0)])
    base = np.array([(-0.97, -0.6, 0), (-0.97, -0.6, -depth), (0.97, -0.6, -depth), (0.97, -0.6, 0)])
    canvas.stroke(project(base), 0.07, 0.8)
    canvas.stroke(project(frame), post, 1.0)


def draw_racket(canvas: Canvas, rng: np.random.Generator) -> None:
    """Strung head, throat and handle, on the frame's diagonal."""
    angle = rng.uniform(0.6, 0.95) * rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center, radii, frame = (
        np.array([0.0, -0.45]),
        np.array([0.68, 0.8]) * rng.uniform(0.95, 1.05),
        rng.uniform(0.1, 0.14),
    )
    for axis, count in ((0, int(rng.integers(7, 10))), (1, int(rng.integers(8, 11)))):
        for offset in np.linspace(-0.87, 0.87, count):
            reach = np.sqrt(1 - offset**2) * (radii[1 - axis] - 0.05)
            ends = np.zeros((2, 2))
            ends[:, axis], ends[:, 1 - axis] = offset * (radii[axis] - 0.05), (-reach, reach)
            canvas.stroke((ends + center) @ turn.T, MIN_WIDTH, 1.15)
    outline = ellipse(center, radii - frame / 2)
    canvas.stroke(outline @ turn.T, frame, 0.95)
    for side in (-1, 1):
        canvas.stroke(np.array([(side * 0.42, 0.13), (side * 0.05, 0.62)]) @ turn.T, 0.1, 0.9)
    canvas.stroke(np.array([(0, 0.6), (0, 1.25)]) @ turn.T, 0.17, 0.75)


def draw_gear(canvas: Canvas, rng: np.random.Generator) -> None:
    """Toothed disk with round or sector-shaped holes."""
    teeth, root = int(rng.integers(10, 19)), rng.uniform(0.8, 0.87)
    step = 2 * np.pi / teeth
    phases = np.array([-0.32, -0.18, 0.18, 0.32]) * step
    angle = (np.arange(teeth)[:, None] * step + phases).ravel()
    radius = np.tile([root, 1.0, 1.0, root], teeth)
    canvas.polygon(np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None], 0.95)
    canvas.ring((0, 0), (root - 0.03,) * 2, 0.14, 1.0)
    count = int(rng.integers(4, 8))
    if rng.random() < 0.5:
        for point in circle_points((0, 0), 0.46, count, rng.uniform(0, 1)):
            canvas.disc(point, min(0.17, 0.36 * np.pi / count), 0)
    else:
        gap = 2 * np.pi / count
        for start in np.arange(count) * gap:
            arc = (start + 0.16 * gap, start + 0.84 * gap)
            canvas.polygon(
                np.concatenate([ellipse((0, 0), (0.64, 0.64), *arc), ellipse((0, 0), (0.3, 0.3), *arc)[::-1]]), 0
            )
    canvas.disc((0, 0), 0.12, 0)


def draw_bicycle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Two spoked wheels, a diamond frame, handlebar and saddle."""
    radius, width = rng.uniform(0.46, 0.5), rng.uniform(0.075, 0.1)
    rear, front = np.array([-0.6, 0.42]), np.array([0.6, 0.42])
    crank, seat, head = np.array([-0.1, 0.45]), np.array([-0.28, -0.25]), np.array([0.4, -0.3])
    count = int(rng.integers(6, 9))
    for hub in (rear, front):
        for point in circle_points(hub, radius - 0.04, count, rng.uniform(0, 1)):
            canvas.stroke(np.stack([hub, point]), MIN_WIDTH, 1.1)
        canvas.ring(hub, (radius, radius), 0.09, 0.7)
        canvas.disc(hub, 0.07, 0.9)
    for start, end in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
        canvas.stroke(np.stack([start, end]), width, 1.05)
    canvas.ring(crank, (0.15, 0.15), 0.06, 0.8)
    canvas.stroke([crank, crank + (0.12, 0.16), crank + (0.22, 0.16)], 0.06, 0.8)
    canvas.stroke([seat, seat + (-0.04, -0.2)], 0.08)
    canvas.stroke([seat + (-0.2, -0.22), seat + (0.14, -0.2)], 0.11, 0.8)
    canvas.stroke([head, head + (-0.04, -0.22), head + (0.1, -0.34), head + (0.22, -0.3)], 0.075, 0.9)


def draw_cage(canvas: Canvas, rng: np.random.Generator) -> None:
    """Bird cage: a dome of bars on a tray, with hoops and a hook."""
    count, half, width = int(rng.integers(6, 9)), rng.uniform(0.66, 0.78), rng.uniform(0.05, 0.065)
    shoulder, tray = rng.uniform(-0.35, -0.1), half + 0.06
    dome = ellipse((0, shoulder), (1, 0.6), 0, -np.pi / 2)[::4]
    profile = np.concatenate([[(1, 0.8), (1, 0.3)], dome])  # outermost bar at the right, of half-width 1
    angle = np.linspace(-np.pi / 2, np.pi / 2, count + 1)
    for bars, shade in (((angle[1:] + angle[:-1]) / 2, 0.7), (angle, 1.0)):  # those at the back stand in the gaps
        for sine in np.sin(bars):
            canvas.stroke(profile * (sine * half, 1), width, shade)
    for y in (shoulder, (shoulder + 0.8) / 2):
        canvas.stroke(ellipse((0, y), (half, 0.1), 0, np.pi), 0.065, 0.9)
    canvas.polygon(np.concatenate([ellipse((0, 0.78), (tray, 0.12), 0, np.pi), [(-tray, 0.66), (tray, 0.66)]]), 0.9)
    canvas.stroke([(-tray, 0.7), (tray, 0.7)], 0.09, 1.1)
    canvas.ring((0, shoulder - 0.7), (0.11, 0.11), 0.055)


def draw_ladder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Step ladder: two ladders that lean on each other."""
    project = _projection(rng.uniform(0.5, 0.9) * rng.choice([-1, 1]), rng.uniform(0.08, 0.2))
    half, depth, width = rng.uniform(0.38, 0.48), rng.uniform(0.6, 0.75), rng.uniform(0.085, 0.12)
    steps = int(rng.integers(4, 7))
    for side, shade, rung in ((-1, 0.75, 0.065), (1, 1.05, 0.1)):
        for t in np.linspace(0.15, 0.95, steps):
            y, z = -1 + 2 * t, side * depth * (1 - t)
            canvas.stroke(project(np.array([(-half, y, z), (half, y, z)])), rung, 0.9 * shade)
        for x in (-half, half):
            canvas.stroke(project(np.array([(x, -1, side * depth), (0.8 * x, 1, 0)])), width, shade)
    canvas.stroke(project(np.array([(-half, 1, 0), (half, 1, 0)])), 0.15, 1.15)


def draw_tower(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lattice mast with arms, like a power pylon."""
    levels, base, width = int(rng.integers(5, 8)), rng.uniform(0.48, 0.6), rng.uniform(0.065, 0.085)
    y = np.linspace(1, -0.9, levels)
    half = base * (1 - np.linspace(0, 1, levels)) ** 1.2 + 0.1
    for low in range(levels - 1):
        a, b = half[low], half[low + 1]
        for side in (-1, 1):
            canvas.stroke([(side * a, y[low]), (-side * b, y[low + 1])], 0.055, 0.85)
            canvas.stroke([(side * a, y[low]), (side * b, y[low + 1])], 1.3 * width, 1.05)
        canvas.stroke([(-b, y[low + 1]), (b, y[low + 1])], 0.06, 0.9)
    for level, reach in zip(range(levels - 3, levels), (0.95, 0.8, 0.6), strict=True):
        for side in (-1, 1):
            tip = (side * reach, y[level] + 0.05)
            canvas.stroke([(side * half[level], y[level]), tip], width, 1.0)
            canvas.stroke([(side * half[level], y[level] - 0.18), tip], 0.055, 0.9)
            canvas.stroke([tip, (tip[0], tip[1] + 0.14)], 0.06, 0.8)
    canvas.stroke([(0, -0.85), (0, -1.08)], 0.06)


def _projection(yaw: float, pitch: float) -> Callable[[np.ndarray], np.ndarray]:
    """Orthographic view: points (K, 3) as (x, up, towards the viewer) to (K, 2) as (x, y down)."""

    def project(points: np.ndarray) -> np.ndarray:
        x, up, near = np.asarray(points, float).T
        right, forward = x * np.cos(yaw) + near * np.sin(yaw), near * np.cos(yaw) - x * np.sin(yaw)
        return np.stack([right, -up * np.cos(pitch) + forward * np.sin(pitch)], 1)

    return project


OBJECTS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    'Wheel': draw_wheel,
    'Fence': draw_fence,
    'Tree': draw_tree,
    'Chair': draw_chair,
    'Goal': draw_goal,
    'Racket': draw_racket,
    'Gear': draw_gear,
    'Bicycle': draw_bicycle,
    'Cage': draw_cage,
    'Ladder': draw_ladder,
    'TransmissionTower': draw_tower,
}
"""Function that draws an object, by class name as in DIS5K."""
