from .contour import ContourLoss
from .iou import IoULoss, PatchIoULoss
from .pixel import BCELoss, MAELoss, MSELoss, ThresholdRegularizationLoss
from .ssim import SSIMLoss
from .structure import StructureLoss

__all__ = [
    'BCELoss',
    'ContourLoss',
    'IoULoss',
    'MAELoss',
    'MSELoss',
    'PatchIoULoss',
    'SSIMLoss',
    'StructureLoss',
    'ThresholdRegularizationLoss',
]
