from .localization import LocalizationModule
from .pyramid_localization import PyramidLocalizationModule

__all__ = ['LocalizationModule', 'PyramidLocalizationModule']
