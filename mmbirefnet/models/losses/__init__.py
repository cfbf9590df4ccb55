from .bce import BCELoss
from .contour import ContourLoss
from .iou import IoULoss
from .mae import MAELoss
from .mse import MSELoss
from .patch_iou import PatchIoULoss
from .ssim import SSIMLoss
from .structure import StructureLoss
from .threshold_regularization import ThresholdRegularizationLoss

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
