"""Write masks, cut-outs and composites under names that do not collide."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mmbirefnet.fileio.atomic import already_exists, replacing
from mmbirefnet.imaging.compose import compose_all, opacity, output_kind, read_background
from mmbirefnet.imaging.maps import box_of_object
from mmbirefnet.imaging.read import MAX_SIDE, LoadedSequence, available_formats
from mmbirefnet.imaging.sequences import ANIMATIONS, encode_sequence, to_palette
from mmbirefnet.imaging.sources import Source
from mmbirefnet.utils.deprecation import former_argument

# Pillow's format and its options, by suffix.
FORMATS = {
    'png': ('PNG', dict(compress_level=4)),
    'apng': ('PNG', dict(compress_level=4)),
    'webp': ('WEBP', dict(quality=95)),
    'tif': ('TIFF', dict(compression='tiff_lzw')),
    'tiff': ('TIFF', dict(compression='tiff_lzw')),
    'jpg': ('JPEG', dict(quality=95, subsampling=0)),
    'jpeg': ('JPEG', dict(quality=95, subsampling=0)),
    'gif': ('GIF', {}),
    'avif': ('AVIF', dict(quality=90, subsampling='4:4:4')),
    'heic': ('HEIF', dict(quality=90)),  # 4:2:0, since most HEIC viewers support only that
    'heif': ('HEIF', dict(quality=90)),
}
LOSSLESS = {'WEBP': dict(lossless=True, exact=True)}  # for masks and cut-outs
WITHOUT_ALPHA = ('jpg', 'jpeg')
LONGEST_SIDES = {
    'WEBP': 16383,
    'JPEG': 65500,
    'GIF': 65535,
    'AVIF': 65535,
    'HEIF': 16384,
}  # longest side of an image in each format, in pixels


class OutputWriter:
    """Writes the files of predictions.

    Call :meth:`plan` with all sources first, which makes the names unique.

    Args:
        out_dir: Output folder. With ``single_file``, the output file.
        save: One or several of ``'mask'``, ``'cutout'`` and ``'composite'``; several are written to one folder each,
            ``<out_dir>/<name>``. By default the cut-out, or the composite if there is a background.
        estimate_foreground: Whether to estimate the object's own colors at the edges.
        background: Color or image behind ``'composite'``, see :func:`~mmbirefnet.imaging.compose.read_background`.
        format: Suffix of all files. By default png for masks and cut-outs, and the format of the input for composites,
            animations and files with pages.
        overwrite: Whether to replace files that exist.
        single_file: Whether ``out_dir`` is a file, for one output of one source.
        device: Torch device that estimates foreground colors; ``None`` for OpenCV on the CPU.
        max_pixels: Largest background image, in pixels; see :func:`~mmbirefnet.imaging.read.load_image`.
        crop: Crops files to the object, with a margin given as a fraction of its sides, and writes the box to
            ``<file>.json``; ``None`` does not crop. All frames of an animation are cropped to one box.
        stream: Open binary file to write to instead, for one source and one output. ``out_dir`` is its name in
            messages.
        foreground: Former name of ``estimate_foreground``.

    Raises:
        ValueError: If an option is invalid, or the format cannot store the alpha of a cut-out.
        OSError: If the background cannot be read.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike,
        save: str | Iterable[str] | None = None,
        estimate_foreground: bool = True,
        background=None,
        format: str | None = None,
        overwrite: bool = True,
        single_file: bool = False,
        device=None,
        max_pixels: int | None = None,
        crop: float | None = None,
        stream: BinaryIO | None = None,
        foreground: bool | None = None,
    ) -> None:
        estimate_foreground = former_argument('foreground', foreground, 'estimate_foreground', estimate_foreground)
        self.out_dir, self.stream = Path(out_dir), stream
        if save is None:
            save = 'cutout' if background is None else 'composite'
        self.save = tuple(dict.fromkeys((save,) if isinstance(save, str) else save))
        self.format = format.lower().lstrip('.') if format else None
        self.overwrite, self.single_file, self.device = overwrite, single_file, device
        self.estimate_foreground = estimate_foreground
        if not self.save:
            raise ValueError('save=(), must be one or several of mask, cutout and composite')
        self._kinds = {name: output_kind(name) for name in self.save}
        if background is not None and 'composite' not in self._kinds.values():
            raise ValueError(f'background={background!r} is for composite, which is not in save={self.save}')
        if len(self.save) > 1 and (single_file or stream is not None):
            raise ValueError(f'{out_dir}: one file cannot hold {" and ".join(self.save)}. Fix: name a folder')
        if single_file:
            suffix = self.out_dir.suffix.lower().lstrip('.')
            if self.format not in (None, suffix):
                raise ValueError(f'{out_dir}: its suffix does not match format={self.format!r}')
            self.format = suffix
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f'format={self.format!r}, must be one of {", ".join(FORMATS)}')
        if self.format == 'avif' and 'AVIF' not in available_formats():
            raise ValueError(
                "format='avif': this build of Pillow does not write AVIF. Fix: pip install 'mmbirefnet[formats]'"
            )
        if self.format in ('heic', 'heif'):
            _register_heif()
        if self.format in WITHOUT_ALPHA and 'cutout' in self.save:
            raise ValueError(f"format='{self.format}' cannot hold the alpha of a cut-out. Fix: use png, webp or tif")
        if crop is not None and not 0 <= crop < float('inf'):
            raise ValueError(f'crop={crop!r}, must be 0 or more')
        self.crop = crop
        self.background = read_background(background, max_pixels=max_pixels)
        self._stems: dict[Source, Path] = {}
        self._sequences: Collection[Source] = ()
        self._inputs: set[str] = set()

    def plan(self, sources: Sequence[Source], sequences: Collection[Source] = ()) -> None:
        """Choose the names of all outputs: the stem of each source, plus its suffix if only the suffixes differ.

        Args:
            sources: All sources.
            sequences: Sources with several frames or pages, which keep their format unless one is given.
        """
        self._sequences = sequences
        stems = [_relative(source.key).with_suffix('') for source in sources]
        shared = Counter(map(_folded, stems))
        stems = [
            stem.with_name(f'{stem.name}_{source.key.suffix[1:]}') if shared[_folded(stem)] > 1 else stem
            for source, stem in zip(sources, stems)
        ]
        shared = Counter(map(_folded, stems))
        taken = {stem for stem, count in shared.items() if count == 1}
        self._stems = {}
        for source, stem in zip(sources, stems):
            name, number = stem, 1
            if shared[_folded(stem)] > 1:
                while _folded(name) in taken:
                    number += 1
                    name = stem.with_name(f'{stem.name}-{number}')
                taken.add(_folded(name))
            self._stems[source] = name
        self._inputs = {os.path.realpath(source.path) for source in sources if source.path}

    def targets(self, source: Source) -> dict[str, Path]:
        """Return the files that :meth:`write` creates for a planned source, by kind."""
        if self.single_file or self.stream is not None:
            return {self.save[0]: self.out_dir}
        stem = self._stems[source]
        folders = [self.out_dir / kind if len(self.save) > 1 else self.out_dir for kind in self.save]
        # Not with_suffix, since the stem may contain dots.
        return {
            kind: folder / stem.with_name(f'{stem.name}.{self._suffix(kind, source)}')
            for kind, folder in zip(self.save, folders)
        }

    def existing(self, source: Source) -> list[Path]:
        """Return the targets of a source that exist, including broken links."""
        if self.stream is not None:
            return []
        return [path for path in self.targets(source).values() if os.path.lexists(path)]

    def check(self, source: Source) -> None:
        """Check that the outputs of a source can be written, before anything is computed.

        Raises:
            FileExistsError: If a target exists and may not be replaced.
            ValueError: If a target is an input, or is outside the output folder because of a link.
        """
        for path in self.targets(source).values() if self.stream is None else ():
            if os.path.realpath(path) in self._inputs:
                raise ValueError(f'{path}: is an input, which is never overwritten. Fix: choose another output folder')
            for file in (path,) if self.crop is None else (path, _box_file(path)):
                if not self.overwrite and os.path.lexists(file):
                    raise already_exists(file)
            if not self.single_file and not path.parent.resolve().is_relative_to(self.out_dir.resolve()):
                raise ValueError(f'{path}: lies outside {self.out_dir}, because a link leads there')

    def write(self, prediction) -> list[Path]:
        """Write the files of a prediction; each is written completely or not at all.

        Raises:
            OSError, ValueError: As :meth:`check`, and if a file cannot be written.
        """
        source, image, soft_map, *_ = prediction
        self.check(source)
        targets = self.targets(source)
        sequence = image if isinstance(image, LoadedSequence) else None
        frames, maps = (sequence.frames, soft_map) if sequence else ([image], [soft_map])
        for kind in targets if sequence else ():
            _check_sequence(self._suffix(kind, source), sequence)
        boxes = self._boxes(frames, maps, sequence is not None and sequence.durations is not None)
        outputs: dict[str, list[np.ndarray]] = {kind: [] for kind in targets}
        for frame, alpha, box in zip(frames, maps, boxes):
            composed = compose_all(
                targets, frame, alpha, self.background, estimate_foreground=self.estimate_foreground, device=self.device
            )
            for kind in targets:
                outputs[kind].append(np.ascontiguousarray(composed.pop(kind)[box]))
        for kind, path in targets.items():
            profiles = [None if kind == 'mask' else frame.icc_profile for frame in frames]
            pixels, suffix, lossless = outputs.pop(kind), self._suffix(kind, source), self._kinds[kind] != 'composite'
            if sequence is None:
                content = encode_image(pixels[0], suffix, profiles[0], lossless, str(path))
            else:
                name = str(path)
                content = encode_frames(pixels, suffix, sequence.durations, sequence.plays, profiles, lossless, name)
            if self.stream is not None:
                self.stream.write(content)
                self.stream.flush()
                continue
            _save(content, path, self.overwrite)
            if self.crop is not None:
                self._save_boxes(path, frames, boxes)
        return list(targets.values())

    def _boxes(self, frames, maps, animated: bool) -> list[tuple[slice, slice]]:
        """Return the crop of each frame, (rows, columns)."""
        if self.crop is None:
            return [(slice(None), slice(None))] * len(frames)
        opacities = [opacity(frame, alpha) for frame, alpha in zip(frames, maps)]
        if animated:
            return [box_of_object(np.maximum.reduce(opacities), self.crop)] * len(frames)
        return [box_of_object(alpha, self.crop) for alpha in opacities]

    def _save_boxes(self, path: Path, frames, boxes) -> None:
        """Write the box of the crop in the image to a JSON file: an object, or a list if the boxes of pages differ."""
        found = [
            dict(left=columns.start, top=rows.start, right=columns.stop, bottom=rows.stop)
            | dict(image_width=frame.size[1], image_height=frame.size[0])
            for frame, (rows, columns) in zip(frames, boxes)
        ]
        one_box = all(box == found[0] for box in found)
        with replacing(_box_file(path), self.overwrite, sync=False) as temporary:
            temporary.write_text(f'{json.dumps(found[0] if one_box else found)}\n')

    def _suffix(self, kind: str, source: Source) -> str:
        if self.format:
            return self.format
        own = source.key.suffix.lower().lstrip('.')
        return own if (self._kinds[kind] == 'composite' or source in self._sequences) and own in FORMATS else 'png'


def _box_file(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def save_image(
    pixels: np.ndarray,
    path: Path,
    icc_profile: bytes | None = None,
    lossless: bool = True,
    overwrite: bool = True,
) -> None:
    """Write an image; the suffix gives the format, see :func:`encode_image`.

    Raises:
        FileExistsError: If ``overwrite`` is off and the file exists, even if it appeared a moment ago.
        OSError: If it cannot be written; no partial file is left.
        ValueError: If the format does not support an image of this size.
    """
    _save(encode_image(pixels, path.suffix.lower().lstrip('.'), icc_profile, lossless, str(path)), path, overwrite)


def _save(content: bytes, path: Path, overwrite: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, overwrite, sync=False) as temporary:
            temporary.write_bytes(content)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(f'{path}: cannot be written ({error})') from error


def encode_image(
    pixels: np.ndarray, format: str, icc_profile: bytes | None = None, lossless: bool = True, name: str = 'image'
) -> bytes:
    """Encode an image as the content of a file.

    Args:
        pixels: uint8 ``(H, W)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA.
        format: One of ``FORMATS``.
        icc_profile: Color profile to embed.
        lossless: Whether to keep all values exactly, if the format supports it.
        name: Name in messages.

    Raises:
        ValueError: If the format does not support an image of this size.
    """
    codec, options = _options(pixels, format, lossless, name)
    if icc_profile:
        options['icc_profile'] = icc_profile
    file = io.BytesIO()
    try:
        (to_palette if codec == 'GIF' else Image.fromarray)(pixels).save(file, codec, **options)
    except RuntimeError as error:  # libheif's encoder rejects some sizes, such as 16x16384
        height, width = pixels.shape[:2]
        raise ValueError(f'{name}: {format} does not take {width}x{height} pixels ({error}). Fix: use png') from error
    return file.getvalue()


def encode_frames(
    frames: Sequence[np.ndarray],
    format: str,
    durations: Sequence[float] | None,
    plays: int = 0,
    icc_profiles: Sequence[bytes | None] = (),
    lossless: bool = True,
    name: str = 'image',
) -> bytes:
    """Encode an animation, or with ``tif`` pages, as the content of a file.

    Arguments are those of :func:`encode_image` and :func:`~mmbirefnet.imaging.sequences.encode_sequence`, errors those
    of the former.
    """
    (*_, (codec, options)) = [_options(frame, format, lossless, name) for frame in frames]
    return encode_sequence(frames, codec, options, durations, plays, icc_profiles)


def _options(pixels: np.ndarray, format: str, lossless: bool, name: str) -> tuple[str, dict]:
    """Return Pillow's format and options for an image, after checking its size."""
    codec, options = FORMATS[format]
    if codec == 'HEIF':
        _register_heif()
    height, width = pixels.shape[:2]
    if max(height, width) > (limit := LONGEST_SIDES.get(codec, MAX_SIDE)):
        raise ValueError(f'{name}: {format} holds sides up to {limit} pixels, not {width}x{height}. Fix: use png')
    return codec, options | (LOSSLESS.get(codec, {}) if lossless else {})


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError(
            "format='heic' needs the package pillow-heif. Fix: pip install 'mmbirefnet[formats]'"
        ) from error
    pillow_heif.register_heif_opener()


def _check_sequence(format: str, sequence: LoadedSequence) -> None:
    animated = sequence.durations is not None
    if FORMATS[format][0] != 'TIFF' and not (animated and FORMATS[format][0] in ANIMATIONS):
        what, fit = ('frames', 'gif, webp, apng or avif') if animated else ('pages', 'tif')
        raise ValueError(
            f'{sequence.name}: {len(sequence.frames)} {what}, which {format} cannot hold. Fix: --format {fit}, or '
            "--frames first (frames='first') for only the first"
        )


def _relative(key: Path) -> Path:
    """Return a relative path that cannot leave the folder that it is joined to."""
    normal = Path(os.path.normpath(key))
    return Path(normal.name) if normal.is_absolute() or '..' in normal.parts else normal


def _folded(stem: Path) -> str:
    """Return a key that is equal for names of the same file on case-insensitive file systems."""
    return str(stem).casefold()
