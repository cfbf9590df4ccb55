from .localization import LocalizationModule, PyramidLocalizationModule

__all__ = ['LocalizationModule', 'PyramidLocalizationModule']
