"""``mmbirefnet video``: cut objects out of a video."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import BinaryIO

from mmbirefnet.video import process_video
from mmbirefnet.video.reader import RawVideo, VideoReader
from mmbirefnet.video.writer import CONTAINERS, STREAMED

from .options import (
    add_foreground_argument,
    add_model_arguments,
    add_output_argument,
    add_settings_arguments,
    inferencer_of,
    settings_of,
)
from .progress import ImageProgress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('input', metavar='VIDEO', help='file, or - for the standard input')
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        required=True,
        metavar='FILE|FOLDER',
        help=f'{", ".join(CONTAINERS)}; all but .mp4 and .mkv hold alpha, .mov as ProRes 4444 and .webm as VP9; '
        '- for the standard output',
    )
    parser.add_argument(
        '--format',
        choices=STREAMED,
        help='of the standard output: nut for uncompressed frames with times (default), mkv, webm, or raw for bare '
        'frames: RGBA, RGB, or gray for masks',
    )
    parser.add_argument(
        '--raw', metavar='WxH@FPS', help='read bare frames of this width, height and rate, such as 1920x1080@30'
    )
    parser.add_argument(
        '--pixel-format',
        default='rgb24',
        metavar='NAME',
        help="FFmpeg's name for that of --raw, such as rgba or yuv420p (default: %(default)s)",
    )
    parser.add_argument(
        '--hwaccel', metavar='NAME', help='decode by hardware: cuda, vaapi, …; in software where that is not possible'
    )
    add_output_argument(parser, 'default: cutout if the file format stores alpha, otherwise composite')
    parser.add_argument('--background', help='color or image behind the object; by default a green screen')
    add_foreground_argument(parser)
    parser.add_argument(
        '--smoothing',
        type=float,
        default=0.0,
        metavar='W',
        help='share of the last map, moved with the image, in each; 0.7 steadies edges (default: none)',
    )
    parser.add_argument('--no-sound', dest='sound', action='store_false', help='leave the sound out')
    parser.add_argument(
        '--tone-map', action='store_true', help='convert HDR (PQ, HLG, BT.2020) to BT.709; by default it is rejected'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep finished frames in <FILE>.resume until the video is whole, and continue from those of an '
        'interrupted run',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument('--workers', type=int, default=2, metavar='N', help='threads beside the model')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    add_model_arguments(parser)
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if str(args.out) != '-':
        if args.format is not None:
            raise ValueError(f'--format {args.format}: is for -o -; the suffix of -o {args.out} gives the format')
        return _run(args, args.out)
    stream = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # nothing but the video goes to the standard output
        return _run(args, stream)


def _run(args: argparse.Namespace, out: Path | BinaryIO) -> int:
    settings = settings_of(args)
    raw = None if args.raw is None else RawVideo.parse(args.raw, args.pixel_format)
    source, total = args.input, 0
    if source == '-':
        source = sys.stdin.buffer
    else:
        with VideoReader(
            source, tone_map=args.tone_map, raw=raw
        ) as reader:  # a wrong file shows before the model loads
            total = reader.expected_frames
    name = 'standard input' if args.input == '-' else args.input
    inferencer = inferencer_of(args)
    with ImageProgress(total, args.quiet) as progress:
        result = process_video(
            inferencer,
            source,
            out,
            settings=settings,
            save=args.save,
            estimate_foreground=args.estimate_foreground,
            background=args.background,
            smoothing=args.smoothing,
            sound=args.sound,
            tone_map=args.tone_map,
            overwrite=args.overwrite,
            workers=args.workers,
            on_frame=progress.advance,
            format=args.format,
            raw=raw,
            hwaccel=args.hwaccel,
            resume=args.resume,
        )
    _print(f'{result.path}: {result.frames} frames, {result.frames / result.seconds:.2f} frames/s')
    for note in result.notes:
        print(f'note: {name}: {note}', file=sys.stderr)
    for damage in result.damage:
        print(f'failed: {name}: {damage}; {result.frames} frames are written', file=sys.stderr)
    return 1 if result.damage else 0


def _print(text: str) -> None:
    """Print names in whatever encoding the terminal has; a name that is not UTF-8 holds surrogates."""
    encoding = sys.stdout.encoding or 'utf-8'
    print(text.encode(encoding, 'backslashreplace').decode(encoding))
