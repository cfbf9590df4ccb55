"""``mmbirefnet video``: remove the background of a video."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import BinaryIO

from mmbirefnet.video import process_video
from mmbirefnet.video.container import RawVideo
from mmbirefnet.video.reader import VideoReader
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
    parser.add_argument('input', metavar='VIDEO', help='file, or - for standard input')
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        required=True,
        metavar='FILE|FOLDER',
        help=f'output file ({", ".join(CONTAINERS)}), folder, or - for standard output; all formats except .mp4 and '
        '.mkv store alpha: .mov as ProRes 4444, .webm as VP9',
    )
    parser.add_argument(
        '--format',
        choices=STREAMED,
        help='format of standard output: nut for uncompressed frames with timestamps (default), mkv, webm, or raw for '
        'frames without a container (RGBA, RGB, or gray for masks)',
    )
    parser.add_argument(
        '--raw', metavar='WxH@FPS', help='read raw frames of this size and frame rate, such as 1920x1080@30'
    )
    parser.add_argument(
        '--pixel-format',
        default='rgb24',
        metavar='NAME',
        help='pixel format of --raw, as FFmpeg names it, such as rgba or yuv420p (default: %(default)s)',
    )
    parser.add_argument('--hwaccel', metavar='NAME', help='decode in hardware: cuda, vaapi, …; falls back to software')
    add_output_argument(parser, 'default: cutout if the file format stores alpha, otherwise composite')
    parser.add_argument('--background', help='color or image behind the object (default: green screen)')
    add_foreground_argument(parser)
    parser.add_argument(
        '--smoothing',
        type=float,
        default=0.0,
        metavar='W',
        help='temporal smoothing: weight of the previous masks, warped by optical flow; 0.7 reduces flicker (default: '
        'none)',
    )
    parser.add_argument('--no-sound', dest='sound', action='store_false', help='leave out the sound')
    parser.add_argument(
        '--tone-map', action='store_true', help='convert HDR (PQ, HLG, BT.2020) to BT.709; HDR is rejected without it'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep finished frames in <FILE>.resume until the video is complete, and continue from those of an '
        'interrupted run',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='number of threads that compose frames (default: %(default)s)',
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    add_model_arguments(parser)
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if str(args.out) != '-':
        if args.format is not None:
            raise ValueError(
                f'--format {args.format}: is only for -o -. Fix: leave it out; the suffix of {args.out} gives the '
                'format'
            )
        return _run(args, args.out)
    stream = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # only the video may go to standard output
        return _run(args, stream)


def _run(args: argparse.Namespace, out: Path | BinaryIO) -> int:
    settings = settings_of(args)
    raw = None if args.raw is None else RawVideo.parse(args.raw, args.pixel_format)
    source, total = args.input, 0
    if source == '-':
        source = sys.stdin.buffer
    else:
        # Report a wrong file before the model is loaded.
        with VideoReader(source, tone_map=args.tone_map, raw=raw) as reader:
            total = reader.expected_frames
    name = 'standard input' if args.input == '-' else args.input
    inferencer = inferencer_of(args)
    with ImageProgress(total, 'video', args.quiet) as progress:
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
        print(f'failed: {name}: {damage}; {result.frames} frames were written', file=sys.stderr)
    return 1 if result.damage else 0


def _print(text: str) -> None:
    """Print text, with escapes for characters that the encoding of the terminal does not support."""
    encoding = sys.stdout.encoding or 'utf-8'
    print(text.encode(encoding, 'backslashreplace').decode(encoding))
