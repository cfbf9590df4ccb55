from .localization import LocalizationModule

__all__ = ['LocalizationModule']
