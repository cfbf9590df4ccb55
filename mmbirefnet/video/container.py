"""Frames out of videos and into them, one at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mmbirefnet.imaging.read import LoadedImage

# Said of the frames and of the stream: some encoders write the one, some the other.
_BT709 = 'scale=out_color_matrix=bt709,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709'
_STREAM_BT709 = ('-colorspace', 'bt709', '-color_primaries', 'bt709', '-color_trc', 'bt709')
_EVEN = 'pad=ceil(iw/2)*2:ceil(ih/2)*2'  # 4:2:0 halves the sides
_H264 = ('-vf', f'{_EVEN},{_BT709}', '-c:v', 'libx264', '-crf', '18', '-pix_fmt', 'yuv420p')
_PRORES = ('-vf', _BT709, '-c:v', 'prores_ks', '-profile:v', '4444', '-pix_fmt', 'yuva444p10le', '-vendor', 'apl0')
_VP9 = ('-vf', _BT709, '-c:v', 'libvpx-vp9', '-crf', '24', '-b:v', '0', '-row-mt', '1')
_AAC = ('-c:a', 'aac', '-b:a', '192k')
# Suffix: ffmpeg's options for opaque video, for video with alpha, and for audio.
CONTAINERS = {
    '.mp4': (_H264, None, _AAC),
    '.mkv': (_H264, None, ('-c:a', 'copy')),
    '.mov': (_H264, _PRORES, _AAC),
    '.webm': (
        (*_VP9, '-pix_fmt', 'yuv420p'),
        (*_VP9, '-pix_fmt', 'yuva420p', '-auto-alt-ref', '0'),
        ('-c:a', 'libopus'),
    ),
}


class VideoReader:
    """Frames of a video, upright, at a constant rate.

    A video of variable rate is brought to its average one: frames are repeated or left out where their times ask for
    it, so that image and sound stay together.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        OSError: It is no video that OpenCV can read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        self._capture = cv2.VideoCapture(str(path))
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS)
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if not self._capture.isOpened() or not 0 < self.frames_per_second < 1000:
            self.close()
            raise OSError(f'{path}: no video that can be read (empty, damaged, or of an unknown format)')

    def __iter__(self) -> Iterator[LoadedImage]:
        """The frames.

        Raises:
            OSError: Not one can be read.
        """
        given = read = 0
        while True:
            seen, frame = self._capture.read()
            if not seen:
                break
            time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Files without times have 0 for all of them.
            due = round(time * self.frames_per_second) + 1 if time > 0 else given + 1
            image = LoadedImage(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), name=f'{self.path}, frame {read}')
            read += 1
            while given < due:
                given += 1
                yield image
        if not read:
            raise OSError(f'{self.path}: not a single frame can be read')

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class VideoWriter:
    """Writes frames; the file appears when all are written, or not at all.

    With ffmpeg: H.264 (.mp4, .mkv, .mov), VP9 (.webm), with alpha ProRes 4444 (.mov) or VP9 (.webm), and the sound of
    another file. Without ffmpeg OpenCV writes silent .mp4 without alpha.

    Args:
        path: The file to be written; its suffix is one of ``CONTAINERS``.
        frames_per_second: Rate of the frames.
        alpha: Whether frames are RGBA.
        sound: File whose sound is taken over, if it has any.

    Raises:
        ValueError: The suffix is none of them or cannot hold alpha, or it needs ffmpeg and there is none.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        frames_per_second: float,
        alpha: bool = False,
        sound: str | os.PathLike | None = None,
    ) -> None:
        self.path = Path(path)
        self.ffmpeg = shutil.which('ffmpeg')
        check_container(self.path, alpha)
        self._rate, self._alpha, self._sound = frames_per_second, alpha, sound
        self._temporary = self.path.with_name(f'.{os.getpid()}-{self.path.name}')
        self._shape = self._process = self._silent = self._messages = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame: uint8 ``(H, W, 3)`` RGB, or ``(H, W, 4)`` RGBA with ``alpha``.

        Raises:
            OSError: It cannot be written.
            ValueError: It is of another size or number of channels than the others.
        """
        if frame.shape[2] != 3 + self._alpha:
            raise ValueError(f'{self.path}: frames have {3 + self._alpha} channels, this one {frame.shape[2]}')
        if self._shape is None:
            self._shape = frame.shape
            self._open()
        if frame.shape != self._shape:
            raise ValueError(f'{self.path}: the size of frames changes from {self._shape[:2]} to {frame.shape[:2]}')
        if self._silent is not None:
            self._silent.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            return
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            raise OSError(f'{self.path}: cannot be written ({self._said() or error})') from error

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._shape[:2]
        if self.ffmpeg is None:
            self._silent = cv2.VideoWriter(
                str(self._temporary), cv2.VideoWriter_fourcc(*'mp4v'), self._rate, (width, height)
            )
            if not self._silent.isOpened():
                raise OSError(f'{self.path}: OpenCV cannot write it; install ffmpeg')
            return
        opaque, transparent, audio = CONTAINERS[self.path.suffix.lower()]
        command = [
            *(self.ffmpeg, '-y', '-hide_banner', '-loglevel', 'error', '-f', 'rawvideo'),
            *('-pix_fmt', 'rgba' if self._alpha else 'rgb24', '-s', f'{width}x{height}', '-r', f'{self._rate}'),
            *('-i', 'pipe:0'),
        ]
        if self._sound is not None:
            # file: keeps a name such as "a:b.mp4" from being taken for a protocol.
            command += ['-i', f'file:{self._sound}', '-map', '0:v', '-map', '1:a?', *audio]
        command += [*(transparent if self._alpha else opaque), *_STREAM_BT709, f'file:{self._temporary}']
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in discard; a pipe that nobody reads would fill up
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._messages)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OSError: It could not be written, or no frame was.
        """
        if self._shape is None:
            raise OSError(f'{self.path}: there was no frame to write')
        if self._silent is not None:
            self._silent.release()
        else:
            with contextlib.suppress(OSError):  # it died; its status and message say why
                self._process.stdin.close()
            if self._process.wait():
                raise OSError(f'{self.path}: ffmpeg failed: {self._said()}')
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Stop and leave nothing behind."""
        if self._silent is not None:
            self._silent.release()
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            if not self._process.stdin.closed:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._messages.close()
        self._temporary.unlink(missing_ok=True)

    def _said(self) -> str:
        if self._process.poll() is None:
            self._process.wait(10)
        self._messages.seek(0)
        return self._messages.read().decode(errors='replace').strip()[-2000:]

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()


def check_container(path: Path, alpha: bool) -> None:
    """Raise ``ValueError`` if a file of this name cannot be written with or without alpha on this machine."""
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS:
        raise ValueError(f'{path}: {suffix or "no suffix"} is not written; {", ".join(CONTAINERS)} are')
    if alpha and CONTAINERS[suffix][1] is None:
        holders = [name for name, (_, transparent, _) in CONTAINERS.items() if transparent]
        raise ValueError(f'{path}: {suffix} holds no alpha; {" and ".join(holders)} do')
    if shutil.which('ffmpeg') is None and (alpha or suffix != '.mp4'):
        raise ValueError(f'{path}: needs ffmpeg (Debian, Ubuntu: apt install ffmpeg); .mp4 without alpha does not')
