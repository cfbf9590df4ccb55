"""The image formats that training, inference and the service can open."""

from __future__ import annotations

# Suffixes by Pillow's name of the format. Excluded are plugins that start programs (EPS), that pass their content to
# another plugin (IPTC), or that only identify a format without decoding it. HEIF needs the package pillow-heif. TGA
# comes last: its files have no signature, so its plugin tries every file that the others reject.
FORMATS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo'),
    'PNG': ('.png', '.apng'),
    'WEBP': ('.webp',),
    'TIFF': ('.tif', '.tiff'),
    'BMP': ('.bmp',),
    'DIB': ('.dib',),
    'GIF': ('.gif',),
    'AVIF': ('.avif', '.avifs'),
    'HEIF': ('.heic', '.heif', '.heics', '.heifs', '.hif'),
    'JPEG2000': ('.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm', '.pfm'),
    'PSD': ('.psd',),
    'ICO': ('.ico',),
    'ICNS': ('.icns',),
    'DDS': ('.dds',),
    'PCX': ('.pcx',),
    'QOI': ('.qoi',),
    'SGI': ('.sgi', '.rgb', '.rgba', '.bw'),
    'SUN': ('.ras',),
    'XBM': ('.xbm',),
    'XPM': ('.xpm',),
    'TGA': ('.tga', '.icb', '.vda', '.vst'),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
