"""Finished frames of a long job, kept in a folder until the video is complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from mmbirefnet.fileio.atomic import replacing

_JOB, _STATE = 'job.json', 'state.npz'
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class FinishedFrames:
    """Stores frames as PNG files before they are encoded, so that an interrupted job can continue.

    Args:
        folder: Folder of the frames; it is created if needed.
        job: Everything that the frames depend on, by name. Values are compared as text.
        batch_size: Frames per batch of the model. A job continues at a multiple of it, so that all batches are the
            same as without an interruption.
        smoothed: Whether predictions are smoothed. A job then continues where the state of the smoother was stored.

    Attributes:
        count: Number of finished frames.
        state: State of the temporal smoother after the last finished frame; empty without smoothing.

    Raises:
        ValueError: If the folder belongs to another job.
        OSError: If the folder cannot be read or written.
    """

    def __init__(self, folder: Path, job: dict, batch_size: int, smoothed: bool) -> None:
        self.folder, self._batch_size = folder, batch_size
        folder.mkdir(parents=True, exist_ok=True)
        self._check({name: str(value) for name, value in job.items()})
        count = 0
        while self._path(count).exists():
            count += 1
        self.count, self.state = count - count % batch_size, ()
        if smoothed:
            self.count, self.state = self._read_state(self.count)

    def _check(self, job: dict[str, str]) -> None:
        path = self.folder / _JOB
        if not path.exists():
            if any(self.folder.iterdir()):
                raise ValueError(f'{self.folder}: contains other files. Fix: move them, or leave out --resume (resume)')
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(job, indent=1))
            return
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f'{path}: is damaged ({error}). Fix: delete the folder to start over') from error
        for name, value in job.items():
            if before.get(name) != value:
                raise ValueError(
                    f'{self.folder}: belongs to another job: {name} was {before.get(name)}, now it is {value}. '
                    'Fix: pass the same options, or delete the folder to start over'
                )

    def _path(self, index: int) -> Path:
        return self.folder / f'{index:08}.png'

    def _read_state(self, count: int) -> tuple[int, tuple[np.ndarray, ...]]:
        path = self.folder / _STATE
        if not path.exists():
            return 0, ()
        with np.load(path) as state:
            done = int(state['count'])
            return (done, (state['gray'], state['average'])) if done <= count else (0, ())

    def load(self, index: int) -> np.ndarray:
        """A frame: uint8 ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA.

        Raises:
            OSError: If its file is damaged.
        """
        content = np.fromfile(self._path(index), np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
        if pixels is None:
            raise OSError(f'{self._path(index)}: is damaged. Fix: delete {self.folder} to start over')
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)

    def save(self, index: int, pixels: np.ndarray, state: tuple[np.ndarray, ...]) -> None:
        """Store a frame, and at the end of a batch also the state of the smoother.

        Raises:
            OSError: If it cannot be written.
        """
        _, content = cv2.imencode(
            '.png', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA), _FAST
        )
        with replacing(self._path(index), sync=False) as temporary:
            temporary.write_bytes(content.tobytes())
        if state and (index + 1) % self._batch_size == 0:
            with replacing(self.folder / _STATE, sync=False) as temporary, temporary.open('wb') as file:
                np.savez(file, count=index + 1, gray=state[0], average=state[1])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)
