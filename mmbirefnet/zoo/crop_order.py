"""Order of the image crops in the channels of the inward reference.

The reference implementation stacks the crops of a grid as channels in the order (channel, grid row, grid column), which
we call ``rows`` and use. Until 5 November 2024, the order was (grid column, grid row, channel), ``columns``, and most
released models were trained with it. Names and shapes of the parameters are the same, so a model in the wrong order
returns wrong predictions without an error.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor

ROWS, COLUMNS = ORDERS = ('rows', 'columns')
AUTO = 'auto'
# First kernels of the inward references in the reference implementation, by the crops per side.
GRIDS = {f'decoder.ipt_blk{block}.conv1.weight': grid for block, grid in ((5, 32), (4, 16), (3, 8), (2, 4))}
# Smallest margin between the orders, in standard errors, for a detection. Random weights have margins of up to about 3.
# After training from scratch on synthetic images with crops by rows and by columns, the margins were +41 and -50 after
# 10 steps and +45 and -61 after 40 (32 channels, 128x128 pixels), and +13 and -28 after 10 steps and +18 and -42 after
# 40 (Swin-T, 96x96 pixels).
THRESHOLD = 6.0


class Detection(NamedTuple):
    """Order of the crops according to the weights."""

    order: str | None
    """``'rows'``, ``'columns'``, or ``None`` if uncertain."""
    margin: float
    """Margin in standard errors; positive for ``rows``, negative for ``columns``."""
    correlations: dict[int, tuple[float, float]]
    """Mean correlation of related kernels by rows and by columns, for each grid (crops per side)."""

    def __str__(self) -> str:
        if not self.correlations:
            return 'no inward reference whose crops could be compared'
        parts = ', '.join(
            f'{rows:.3f} by rows and {columns:.3f} by columns at grid {grid}'
            for grid, (rows, columns) in self.correlations.items()
        )
        return f'correlation of related kernels {parts}; margin {self.margin:+.1f} standard errors'


def columns_to_rows(weight: Tensor, grid: int) -> Tensor:
    """Reorder the input channels of a kernel from ``columns`` to ``rows``; differentiable.

    Args:
        weight: ``(N, grid * grid * 3, kH, kW)``, channels in the order (grid column, grid row, channel).
        grid: Crops per side.

    Returns:
        ``(N, 3 * grid * grid, kH, kW)``, channels in the order (channel, grid row, grid column).
    """
    return weight.unflatten(1, (grid, grid, 3)).permute(0, 3, 2, 1, 4, 5).flatten(1, 3)


def detect_crop_order(state_dict: Mapping[str, Tensor]) -> Detection:
    """Detect the order of the crops from the weights.

    Color channels of images are similar, and so are neighboring pixels, so training makes their kernels similar. In the
    right order, the mean correlation of the three color kernels of a crop, and of the kernels of neighboring crops, is
    therefore higher. It is compared at each grid, and the differences are pooled in units of their standard error, as
    if all pairs were independent.

    Colors alone suffice to detect ``columns``. But if weights trained by ``rows`` are read by columns, the "colors" are
    neighbors on the grid, whose correlation is almost as high: for a Swin-T, the margin by colors fell from 9.6 to 8.1
    between the 10th and the 40th step, while the margin with neighbors rose from 13 to 18.

    Args:
        state_dict: Parameters with the names of the reference implementation, without prefixes.

    Returns:
        Order and margin; the order is ``None`` if the margin is below ``THRESHOLD``, as in hardly trained models.
    """
    correlations, scores = {}, []
    for key, grid in GRIDS.items():
        weight = state_dict.get(key)
        if weight is None or weight.is_meta or weight.shape[1] != 3 * grid**2:
            continue
        weight = weight.detach().float()
        rows, rows_variance = _relatedness(weight, grid)
        columns, columns_variance = _relatedness(columns_to_rows(weight, grid), grid)
        correlations[grid] = (rows, columns)
        scores.append((rows - columns) / max(rows_variance + columns_variance, 1e-12) ** 0.5)
    margin = sum(scores) / max(len(scores), 1) ** 0.5
    order = None if abs(margin) < THRESHOLD else ROWS if margin > 0 else COLUMNS
    return Detection(order, margin, correlations)


def _relatedness(weight: Tensor, grid: int) -> tuple[float, float]:
    """Mean correlation of the color kernels of a crop and of kernels of neighboring crops, and its variance.

    Args:
        weight: ``(N, 3 * grid * grid, kH, kW)``, channels in the order (channel, grid row, grid column).
    """
    kernels = weight.unflatten(1, (3, grid, grid)).permute(1, 2, 3, 0, 4, 5).flatten(3)  # color, row, column, values
    kernels = kernels - kernels.mean(3, keepdim=True)
    kernels = kernels / kernels.norm(dim=3, keepdim=True).clamp(min=1e-12)
    pairs = (
        kernels * kernels.roll(1, 0),  # red and blue, green and red, blue and green
        kernels[:, 1:] * kernels[:, :-1],
        kernels[:, :, 1:] * kernels[:, :, :-1],
    )
    found = [pair.sum(3) for pair in pairs]
    mean = sum(correlation.mean() for correlation in found) / len(found)
    variance = sum(correlation.var() / correlation.numel() for correlation in found) / len(found) ** 2
    return mean.item(), variance.item()


def resolve_crop_order(
    state_dict: Mapping[str, Tensor], crop_order: str = AUTO, expected: str | None = None, name: str = 'the checkpoint'
) -> str:
    """Choose the order of the crops, and log it with the reason.

    Args:
        state_dict: See :func:`detect_crop_order`.
        crop_order: ``'rows'``, ``'columns'``, or ``'auto'`` to detect it. If the detection is uncertain, the order is
            ``expected``, or else ``'rows'`` as in the current reference implementation.
        expected: Order of the model in the catalog, if known.
        name: Name of the model in messages.

    Returns:
        ``'rows'`` or ``'columns'``.

    Raises:
        ValueError: If ``crop_order`` is unknown.
    """
    if crop_order not in (AUTO, *ORDERS):
        raise ValueError(f"crop_order={crop_order!r}, must be 'auto', 'rows' or 'columns'")
    if crop_order != AUTO:
        print_log(f'{name}: crops by {crop_order}, as given', 'current')
        return crop_order
    if not any(key in state_dict for key in GRIDS):
        return ROWS
    detection = detect_crop_order(state_dict)
    if detection.order is None:
        order = expected or ROWS
        reason = 'as the catalog expects' if expected else 'as in the current reference implementation'
        print_log(
            f'{name}: crops by {order}, {reason}: the weights do not show the order ({detection}). '
            'If predictions are poor, try the other one: crop_order, on the command line --crop-order',
            'current',
            logging.WARNING,
        )
        return order
    if expected not in (None, detection.order):
        print_log(
            f'{name}: crops by {detection.order}, as the weights show ({detection}), although the catalog expects '
            f'{expected}. Check that the file is the model that it is named after, or set crop_order (--crop-order)',
            'current',
            logging.WARNING,
        )
    else:
        print_log(f'{name}: crops by {detection.order}, as the weights show ({detection})', 'current')
    return detection.order
