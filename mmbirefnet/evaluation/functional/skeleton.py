"""Skeleton of a mask, equal to that of ``skimage.morphology.skeletonize``, but faster."""

import cv2
import numpy as np

# Neighborhoods for which scikit-image differs from the paper, in the first and in the second half-step: mostly, it
# removes the corners of staircases, and keeps ends of lines that the paper shortens.
_DEPARTURES = (
    (10, 11, 24, 40, 48, 56, 96, 129, 130, 134, 160, 161, 192, 194, 198, 224),
    (3, 6, 10, 12, 14, 26, 40, 48, 104, 108, 129, 130, 131, 160, 176),
)


def _removable() -> np.ndarray:
    """uint8 (256,): whether the first (bit 0) and the second (bit 1) half-step remove a pixel, by its eight neighbors.

    Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", CACM 1984. Bit k of the index is the
    neighbor k, clockwise from north-west.
    """
    neighbors = (np.arange(256)[:, None] >> np.arange(8)) & 1
    count = neighbors.sum(axis=1)
    rises = ((neighbors == 0) & (np.roll(neighbors, -1, axis=1) == 1)).sum(axis=1)
    simple = (count >= 2) & (count <= 6) & (rises == 1)
    north, east, south, west = neighbors[:, 1::2].T
    first = simple & (north * east * south == 0) & (east * south * west == 0)
    second = simple & (north * east * west == 0) & (north * south * west == 0)
    for removable, departures in zip((first, second), _DEPARTURES, strict=True):
        removable[list(departures)] ^= True
    return (first + 2 * second).astype(np.uint8)


_REMOVABLE = _removable()
_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # clockwise from north-west


def skeletonize(mask: np.ndarray) -> np.ndarray:
    """Thin a mask to lines one pixel wide.

    Only neighbors of a pixel that was just removed can change their state, so only these are checked. The time grows
    with the area of the object, not with the area of the image times the width of the object.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W).
    """
    height, width = mask.shape
    alive = np.pad(mask, 1)
    weights = np.zeros((3, 3), np.float32)
    for bit, (dy, dx) in enumerate(_DIRECTIONS):
        weights[1 + dy, 1 + dx] = 1 << bit
    code = cv2.filter2D(alive.view(np.uint8), cv2.CV_8U, weights, borderType=cv2.BORDER_CONSTANT)
    code *= alive  # the background's code is 0, which is not removable
    offsets = [dy * (width + 2) + dx for dy, dx in _DIRECTIONS]
    alive, code = alive.ravel(), code.ravel()
    stamp = np.empty(alive.size, np.int32)

    # Pixels that became removable, by half-step; a half-step removes those that are still removable when it runs.
    border = np.flatnonzero((code != 0) & (code != 255))
    pending = list(_by_half_step(border, code[border]))
    step = 0
    while pending[0].size or pending[1].size:
        phase = step % 2
        candidates, pending[phase] = pending[phase], pending[phase][:0]
        removed = _unique(candidates[(_REMOVABLE[code[candidates]] >> phase & 1).view(np.bool_)], stamp)
        alive[removed] = False
        code[removed] = 0
        found = ([pending[0]], [pending[1]])
        for bit, offset in enumerate(offsets):
            beside = removed + offset
            # For the neighbor, the removed pixel is in the opposite direction; none occurs twice in one direction.
            remaining = code.take(beside) & np.uint8(255 - (1 << (bit + 4) % 8))
            code[beside] = remaining
            for pixels, removable in zip(found, _by_half_step(beside, remaining), strict=True):
                pixels.append(removable)
        pending = [np.concatenate(pixels) for pixels in found]
        step += 1
    return alive.reshape(height + 2, width + 2)[1:-1, 1:-1]


def _by_half_step(pixels: np.ndarray, codes: np.ndarray) -> tuple:
    """The ``pixels`` that the first and the second half-step remove, according to their ``codes``."""
    removable = _REMOVABLE.take(codes)
    return pixels[(removable & 1).view(np.bool_)], pixels[(removable >> 1).view(np.bool_)]


def _unique(indices: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """``indices`` without repetitions; ``stamp`` is scratch space for all of them."""
    order = np.arange(indices.size, dtype=stamp.dtype)
    stamp[indices] = order
    return indices[stamp[indices] == order]
