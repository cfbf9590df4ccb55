"""A job that was killed continues, and its video is that of a job that was not."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from red import TakesRed
from videos import make_video

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.video import process_video

FRAMES = 12
SLOW = (
    'import sys, time; from red import TakesRed; from mmbirefnet.apis import BiRefNetInferencer\n'
    'from mmbirefnet.cli import video; from mmbirefnet.cli.main import main\n'
    'class Slow(TakesRed):\n'
    '    def __call__(self, images):\n'
    '        time.sleep(0.3)\n'
    '        return super().__call__(images)\n'
    'video.inferencer_of = lambda args: BiRefNetInferencer(backend=Slow())\n'
    'sys.exit(main(["video", *sys.argv[1:]]))'
)


class Seen(TakesRed):
    """Counts images."""

    images = 0

    def __call__(self, images):
        self.images += len(images)
        return super().__call__(images)


class Counts(TakesRed):
    """Noisy edges, so that smoothing changes every frame, and an error after some images."""

    def __init__(self, most=10**9):
        self.images, self.most = 0, most

    def __call__(self, images):
        self.images += len(images)
        if self.images > self.most:
            raise RuntimeError('out of memory')
        noise = np.random.default_rng(int(images.sum()) % 2**32).random(images.shape[:3], np.float32)
        return 0.7 * super().__call__(images) + 0.3 * noise


def run(source, out, most=10**9, **options):
    backend = Counts(most)
    result = process_video(BiRefNetInferencer(backend=backend), source, out, **options)
    return result, backend.images


@pytest.fixture
def source(tmp_path):
    return make_video(tmp_path / 'in.mkv', FRAMES, sound='libopus')


def test_after_a_kill(source, tmp_path):
    out = tmp_path / 'out.nut'
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    words = [str(source), '-o', str(out), '--resume', '--quiet', '--save', 'mask']
    with subprocess.Popen([sys.executable, '-c', SLOW, *words], env=environment) as process:
        end = time.monotonic() + 60
        while not (out.with_name('out.nut.resume') / '00000003.png').exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    backend = Seen()
    inferencer = BiRefNetInferencer(backend=backend)
    result = process_video(inferencer, source, out, save='mask', resume=True)
    assert 0 < backend.images <= FRAMES - 4
    assert result.frames == FRAMES
    process_video(inferencer, source, tmp_path / 'whole.nut', save='mask')
    assert out.read_bytes() == (tmp_path / 'whole.nut').read_bytes()
    assert not out.with_name('out.nut.resume').exists()


@pytest.mark.parametrize(
    ('options', 'most'),
    [
        (dict(), 10),
        (dict(smoothing=0.7), 10),
        (dict(smoothing=0.7, settings=Settings(batch_size=3)), 9),
        (dict(settings=Settings(batch_size=5)), 10),
    ],
)
def test_after_an_error(source, tmp_path, options, most):
    """The sound, the smoothed edges and the batches are those of an uninterrupted run, twice interrupted."""
    run(source, tmp_path / 'whole.nut', **options)
    out = tmp_path / 'out.nut'
    with pytest.raises(RuntimeError, match='out of memory'):
        run(source, out, most, resume=True, **options)
    kept = sorted(path.name for path in out.with_name('out.nut.resume').glob('*.png'))
    batch = options.get('settings', Settings()).batch_size
    done = len(kept) // batch * batch
    assert 0 < done <= most
    with pytest.raises(RuntimeError, match='out of memory'):
        run(source, out, 0, resume=True, **options)
    assert sorted(path.name for path in out.with_name('out.nut.resume').glob('*.png')) == kept
    result, images = run(source, out, resume=True, **options)
    assert (result.frames, images) == (FRAMES, FRAMES - done)
    assert out.read_bytes() == (tmp_path / 'whole.nut').read_bytes()


def test_other_jobs_and_folders_are_rejected(source, tmp_path):
    out = tmp_path / 'out.mov'
    folder = tmp_path / 'out.mov.resume'
    with pytest.raises(RuntimeError):
        run(source, out, 3, resume=True)
    with pytest.raises(
        ValueError, match='belongs to another job: smoothing was 0.0, now it is 0.5. Fix: pass the same'
    ):
        run(source, out, resume=True, smoothing=0.5)
    with pytest.raises(ValueError, match='save was cutout, now it is composite'):
        run(source, out, resume=True, save='composite', background='red')
    (folder / '00000000.png').write_bytes(b'')
    with pytest.raises(OSError, match='00000000.png: is damaged. Fix: delete'):
        run(source, out, resume=True)
    (folder / 'job.json').write_text('{')
    with pytest.raises(ValueError, match='job.json: is damaged'):
        run(source, out, resume=True)
    (folder / 'job.json').unlink()
    with pytest.raises(ValueError, match='out.mov.resume: contains other files'):
        run(source, out, resume=True)
    assert not out.exists()
    with pytest.raises(ValueError, match='resume: needs files as source and output'), source.open('rb') as file:
        run(file, out, resume=True)
