"""Human correction effort (Qin et al., ECCV 2022): the number of clicks that correct a prediction."""

import cv2
import numpy as np

from .pair import Pair
from .registry import register_measure

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@register_measure('HCE', r'$HCE_{\gamma}$', lower_is_better=True, digits=0)
def human_correction_effort(pair: Pair, relax: int = 5, epsilon: float = 2.0) -> float:
    """Number of control points and regions that a person must edit to correct the binary prediction.

    As in the reference evaluation, the threshold is 128 of 255 without stretching, so an object with lower values
    counts as missing. With ``pair.stretch_hce``, the prediction is stretched to [0, 1], and the threshold is 0.5, as in
    PySODMetrics.

    Args:
        pair: Prediction and mask.
        relax: Number of erosions of the union of prediction and mask; errors that they remove are ignored.
        epsilon: Tolerance in pixels of the polygons around the remaining errors.
    """
    mask, binary = pair.mask_u8, (pair.stretched_binary if pair.stretch_hce else pair.binary).view(np.uint8)
    hit = mask & binary
    core = cv2.erode(mask | binary, _CROSS, iterations=relax)
    false_positive = _relaxed(binary & ~mask, core, mask ^ 1, relax)
    false_negative = _relaxed(mask & ~binary, core, binary ^ 1, relax)
    # Missing thin parts always count, whatever their width.
    false_negative |= pair.skeleton.view(np.uint8) & (hit ^ 1)

    near_object = cv2.dilate(hit | false_negative, _CROSS)
    near_background = cv2.dilate((hit | false_positive | false_negative) ^ 1, _CROSS)
    return float(_effort(false_positive, near_object, epsilon) + _effort(false_negative, near_background, epsilon))


def _relaxed(fault: np.ndarray, core: np.ndarray, allowed: np.ndarray, relax: int) -> np.ndarray:
    """The parts of ``fault`` in ``core``, and what ``relax`` dilations within ``allowed`` reach from there."""
    grown = fault & core
    for _ in range(relax):
        grown = cv2.dilate(grown, _CROSS) & allowed
    return grown & fault


def _effort(faults: np.ndarray, condition: np.ndarray, epsilon: float) -> int:
    """Control points along the boundaries of ``faults`` where ``condition`` holds, plus one per region that has none.

    Args:
        faults: uint8 (H, W), 0 or 1.
        condition: uint8 (H, W), 0 or 1.
        epsilon: Tolerance of the polygons in pixels.
    """
    contours, hierarchy = cv2.findContours(faults, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0
    points = np.concatenate(contours)[:, 0]  # (N, 2) as x, y
    contour = np.repeat(np.arange(len(contours)), [len(c) for c in contours])
    flat = points[:, 1].astype(np.int64) * faults.shape[1] + points[:, 0]
    # Keep only the first index of a pixel that occurs several times, by assigning the indices in reverse order.
    order = np.arange(len(flat))
    first = np.empty(faults.size, np.int64)
    first[flat[::-1]] = order[::-1]
    kept = np.flatnonzero((condition.ravel()[flat] > 0) & (first[flat] == order))

    region = _outer_contour(hierarchy[0])
    untouched = len(np.unique(region)) - len(np.unique(region[contour[kept]]))
    if kept.size == 0:
        return untouched

    cuts = np.flatnonzero((np.diff(kept) > 1) | (np.diff(contour[kept]) > 0)) + 1
    segments = [points[k] for k in np.split(kept, cuts)]
    owners = contour[kept[np.concatenate(([0], cuts))]]
    segments = _join_ends(segments, owners)
    return untouched + sum(len(cv2.approxPolyDP(s[:, None], epsilon, False)) for s in segments)


def _outer_contour(hierarchy: np.ndarray) -> np.ndarray:
    """The outer contour of each contour's region (itself, or the parent of a hole), from OpenCV's tree (N, 4)."""
    parent = hierarchy[:, 3]
    depth, ancestor = np.zeros(len(parent), np.int64), parent
    while (ancestor >= 0).any():
        depth += ancestor >= 0
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return np.where(depth % 2 == 0, np.arange(len(parent)), parent)


def _join_ends(segments: list, owners: np.ndarray) -> list:
    """Join the last and the first segment of a contour if they touch across the start of the contour."""
    joined = []
    for owner in np.split(np.arange(len(segments)), np.flatnonzero(np.diff(owners)) + 1):
        parts = [segments[k] for k in owner]
        if len(parts) > 1 and np.abs(parts[0][0] - parts[-1][-1]).max() == 1:
            parts[-1] = np.concatenate((parts[-1], parts[0][::-1]))
            del parts[0]
        joined += parts
    return joined
