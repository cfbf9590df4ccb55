"""``mmbirefnet cut`` on folders with good and bad files, with a backend whose maps are known."""

import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from bad_files import POSTSCRIPT, iptc, slow_jpeg
from fake_backend import RedBackend
from PIL import Image
from rich.console import Console

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.job import ImageJob
from mmbirefnet.cli import cut, main
from mmbirefnet.cli.progress import ImageProgress
from mmbirefnet.cli.watch import SignalSafeEvent, watch
from mmbirefnet.imaging.write import OutputWriter


@pytest.fixture
def backend(monkeypatch):
    """What every run predicts with."""
    backend = RedBackend()
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=backend))
    return backend


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, value in (('a.jpg', 50), ('a.png', 100), ('sub/deep/c.webp', 150)):
        write(tmp_path / 'in' / name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'in'


def write(path, red):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (40, 30), (red, 0, 0)).save(path, lossless=True, quality=100)


def run(*words):
    return main.main(['cut', *map(str, words)])


def written(out):
    return {str(p.relative_to(out)): np.asarray(Image.open(p))[15, 20] for p in sorted(out.rglob('*')) if p.is_file()}


def test_folder(backend, folder, tmp_path, capsys):
    assert run('in', '-o', 'out', '--save', 'mask') == 0
    found = written(tmp_path / 'out')
    assert list(found) == ['a_jpg.png', 'a_png.png', 'sub/deep/c.png']
    assert [int(value) for value in found.values()] == [pytest.approx(50, abs=2), 100, 150]
    assert '3 written, 0 skipped, 0 failed, ' in capsys.readouterr().out


def test_former_names_of_options(backend, folder, tmp_path, capsys):
    """Of ``--save composite`` and ``--estimate-foreground``; ``--help`` does not list them."""
    new = ('--save', 'mask', 'composite', '--no-estimate-foreground', '--background', 'red')
    old = ('--save', 'mask', 'foreground', '--no-foreground', '--background', 'red')
    assert run('in/a.png', '-o', 'new', *new) == run('in/a.png', '-o', 'old', *old) == 0
    files = [tmp_path / name / 'a.png' for name in ('new/composite', 'old/foreground')]
    assert files[0].read_bytes() == files[1].read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run('--help')
    text = capsys.readouterr().out
    assert '--no-estimate-foreground' in text
    assert '{mask,cutout,composite}' in text
    assert '--no-foreground' not in text


def test_one_bad_file_stops_nothing(backend, folder, tmp_path, capsys):
    (folder / 'broken.png').write_text('broken')
    (folder / 'empty.jpg').touch()
    (tmp_path / 'out/sub').mkdir(parents=True)
    (tmp_path / 'out/sub/deep').touch()  # a file where a folder has to be
    assert run('in', 'gone.png', '-o', 'out', '--batch-size', '4') == 1
    assert {'a_jpg.png', 'a_png.png'} == {path.name for path in (tmp_path / 'out').glob('*.png')}
    captured = capsys.readouterr()
    assert '2 written, 0 skipped, 4 failed' in captured.out
    lines = sorted(line for line in captured.err.splitlines() if line.startswith('failed: '))
    assert lines[0] == 'failed: gone.png: no such file'
    assert lines[1].startswith('failed: in/broken.png: not an image')
    assert lines[2] == 'failed: in/empty.jpg: empty file'
    assert lines[3].startswith('failed: in/sub/deep/c.webp: ')
    assert 'out/sub/deep' in lines[3]


def test_skipped_files_are_named(backend, folder, capsys):
    (folder / 'notes.txt').touch()
    (folder / 'sub/film.mp4').touch()
    (folder / os.fsdecode(b'\xff.doc')).touch()
    assert run('in', '-o', 'out') == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('3 written, 0 skipped, 0 failed, ')
    assert line.endswith('; left out, not an image by its suffix: 3 (in/notes.txt, in/\\udcff.doc, in/sub/film.mp4)')


@pytest.mark.parametrize('options', [[], ['--no-sandbox']])
def test_max_pixels(backend, folder, tmp_path, capsys, options):
    Image.new('RGB', (50, 40)).save(folder / 'large.png')
    assert run('in', '-o', 'out', '--max-pixels', '0.0015', *options) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith('3 written, 0 skipped, 1 failed')
    assert captured.err.startswith('failed: in/large.png: 50x40 pixels, more than the limit of 1500')
    assert run('in/large.png', '-o', 'out', '--max-pixels', '0.002', *options) == 0


@pytest.mark.soak
def test_a_file_that_hangs_its_decoder_does_not_stop_the_folder(backend, folder, capsys, monkeypatch):
    """Pillow's IPTC plugin would run Ghostscript on the PostScript inside; a progressive JPEG may take minutes."""
    monkeypatch.setattr(cut, 'DECODE_SECONDS', 2)
    (folder / 'loop.png').write_bytes(iptc(POSTSCRIPT))
    (folder / 'slow.jpg').write_bytes(slow_jpeg())
    assert run('in', '-o', 'out') == 1
    captured = capsys.readouterr()
    assert captured.out.startswith('3 written, 0 skipped, 2 failed')
    lines = sorted(captured.err.splitlines())
    assert lines[0].startswith('failed: in/loop.png: not an image')
    assert lines[1] == 'failed: in/slow.jpg: decoding took longer than 2 s and was stopped'


@pytest.mark.soak
def test_existing_files(backend, folder, tmp_path, capsys):
    mine = tmp_path / 'out/a_png.png'
    mine.parent.mkdir()
    mine.write_text('mine')
    assert run('in', '-o', 'out') == 1
    assert mine.read_text() == 'mine'
    assert 'in/a.png: out/a_png.png: already exists (--overwrite or --skip-existing)' in capsys.readouterr().err
    backend.shapes.clear()
    assert run('in', '-o', 'out', '--skip-existing') == 0
    assert '0 written, 3 skipped, 0 failed' in capsys.readouterr().out
    assert mine.read_text() == 'mine'
    assert not backend.shapes  # nothing was computed
    assert run('in', '-o', 'out', '--overwrite') == 0
    assert Image.open(mine).mode == 'RGBA'
    with pytest.raises(SystemExit):
        run('in', '-o', 'out', '--overwrite', '--skip-existing')


def test_single_file(backend, folder, tmp_path):
    assert run('in/a.png', '-o', 'deep/cut.webp') == 0
    with Image.open(tmp_path / 'deep/cut.webp') as image:
        assert (image.format, image.mode, image.size) == ('WEBP', 'RGBA', (40, 30))
        assert image.getpixel((3, 3))[3] == 100
    assert run('in/a.png', '-o', 'on.jpg', '--background', '#00ff00') == 0
    red, green, blue = Image.open(tmp_path / 'on.jpg').getpixel((20, 15))
    assert (red, green, blue) == pytest.approx((100 * 100 / 255, 255 - 100, 0), abs=4)


def test_options_reach_the_prediction(backend, folder, tmp_path):
    options = ['--size', '64x96', '--scales', '1', '2', '--flip', '--box', '0', '0', '20', '30', '--margin', '0']
    assert run('in/a.png', '-o', 'out', '--save', 'mask', *options, '--threshold', '0.3', '--min-area', '0.1') == 0
    assert backend.shapes == [(1, 64, 96), (1, 64, 96), (1, 128, 192), (1, 128, 192)]
    mask = np.asarray(Image.open(tmp_path / 'out/a.png'))
    assert (mask[:, :20] == 255).all()
    assert (mask[:, 20:] == 0).all()


def test_operations_on_the_mask(backend, folder, tmp_path):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[8:24, 16:48, 0] = 200
    Image.fromarray(pixels).save(folder / 'a.png')
    options = ['--levels', '0.1', '0.7', '--largest', '--fill-holes', '--grow', '-2', '--crop']
    assert run('in/a.png', '-o', 'out', '--save', 'mask', *options) == 0
    mask = np.asarray(Image.open(tmp_path / 'out/a.png'))
    assert (mask.shape, mask.min()) == ((12, 28), 255)
    assert '"left": 18, "top": 10, "right": 46, "bottom": 22' in (tmp_path / 'out/a.png.json').read_text()
    assert run('in/a.png', '-o', 'inverted.png', '--save', 'mask', '--levels', '0.1', '0.7', '--invert') == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'inverted.png')) == 0, pixels[..., 0] > 0)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['in', '-o', 'x.png'], 'x.png: one file cannot hold several'),
        (['in/a.png', '-o', 'x.bmp'], '-o x.bmp: cannot write .bmp'),
        (['in/a.png', 'in/a.jpg', '-o', 'x.png'], 'several'),
        (['in/a.png', '-o', 'in/a'], '-o in/a: is an existing file'),
        (['in/a.png', '-o', 'out', '--background', 'nocolor'], "background='nocolor'"),
        (['in/a.png', '-o', 'out', '--background', 'red', '--save', 'mask'], "background='red' is for composite"),
        (['in/a.png', '-o', 'out', '--background', ''], "background='' is neither a color"),
        (['in/a.png', '-o', 'out', '--box', '0', '0', 'inf', '9'], 'box=[0.0, 0.0, inf, 9.0], must be'),
        (['in/a.png', '-o', 'out', '--format', 'jpg'], 'alpha'),
        (['in/a.png', '-o', 'out', '--threshold', '2'], 'threshold=2.0'),
        (['in/a.png', '-o', 'out', '--workers', '0'], '--workers 0'),
        (['in', '-o', '-'], '-o -: one file cannot hold several'),
        (['in/a.png', '-o', '-', '--save', 'mask', 'cutout'], '-: one file cannot hold mask and cutout'),
        (['ftp://example.org/a.png', '-o', 'out'], 'ftp://example.org/a.png: a URL that does not begin'),
        (['in', '-o', 'out', '--limit', '0'], '--limit 0'),
        (['in', '-o', 'out', '--include', '*.bmp'], 'in: no images in this folder (include: *.bmp; exclude: none)'),
        (['in', '-o', 'out', '--mask', 'none'], 'none: no such file or folder of masks'),
        (['in', '-o', 'out', '--mask', 'in', '--checkpoint', 'x.pth'], '--mask in: is used instead of a model'),
        (['-', '-', '-o', 'out'], '-: standard input can be read only once'),
        (['film.mp4', '-o', 'out'], 'film.mp4: is a video'),
        (['in/sub', '-o', 'in/sub'], 'in/sub: is also the output folder'),
        (['in/sub', '-o', 'in/sub', '--watch'], '-o in/sub: is one of the watched folders'),
        (['in/a.png', '-o', 'out', '--watch'], 'in/a.png: is not a folder'),
        (['in', '-o', 'out', '--watch', '0'], '--watch 0.0'),
        (['in', '-o', 'out', '--watch', 'inf'], '--watch inf'),
        (['in', '-o', 'out', '--watch', 'nan'], '--watch nan'),
        (['in', '-o', 'out', '--max-pixels', 'nan'], '--max-pixels nan'),
        (['*.gif', '-o', 'out'], '*.gif: matches no images'),
    ],
)
def test_wrong_options_are_errors_before_the_first_image(backend, folder, words, message, capsys):
    (folder / 'a').touch()
    assert run(*words) == main.USAGE_ERROR
    assert message in capsys.readouterr().err
    assert not backend.shapes


def test_wrong_size_names_the_option(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run('in/a.png', '-o', 'out', '--size', '200')
    assert caught.value.code == main.USAGE_ERROR
    assert "--size: '200' must be" in capsys.readouterr().err


def test_threads_are_those_of_openmp(folder, monkeypatch, capsys):
    """Which both back ends read when they are loaded."""
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    assert run('in', '-o', 'out', '--threads', '3', '--checkpoint', 'none.onnx') == main.USAGE_ERROR
    assert os.environ['OMP_NUM_THREADS'] == '3'
    assert run('in', '-o', 'out', '--threads', '0') == main.USAGE_ERROR
    assert '--threads 0: must be 1 or more' in capsys.readouterr().err


def test_no_checkpoint(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('MMBIREFNET_CHECKPOINT', raising=False)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    assert run('in', '-o', 'out') == main.USAGE_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: BiRefNet: cannot be downloaded: ')
    assert 'To use a local file: download https://huggingface.co/ZhengPeng7/BiRefNet/resolve/main/model.safe' in line
    assert '--checkpoint' in line
    assert not (tmp_path / 'out').exists()


def test_interrupt_prints_the_counts(backend, folder, monkeypatch, capsys):
    def interrupt(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(RedBackend, '__call__', interrupt)
    assert run('in', '-o', 'out') == main.INTERRUPTED
    assert '0 written' in capsys.readouterr().out


def test_watch(backend, folder, tmp_path, capsys):
    """What is there, what comes, what changes; not what is still being written, and nothing twice."""
    out = tmp_path / 'out'
    write(out / 'sub/deep/c.png', 7)  # from an earlier run

    def wait_for(condition):
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        return condition()

    problems, shown = [], []

    def user():
        try:
            assert wait_for(lambda: (out / 'a_jpg.png').exists() and (out / 'a_png.png').exists())
            write(folder / 'new.png', 200)
            assert wait_for((out / 'new.png').exists)
            before = (out / 'new.png').stat().st_mtime_ns
            write(folder / 'new.png', 90)
            (folder / 'bad.png').write_text('bad')
            assert wait_for(lambda: (out / 'new.png').stat().st_mtime_ns != before)
            assert wait_for(lambda: shown.append(capsys.readouterr().err) or 'failed: in/bad.png' in ''.join(shown))
        except AssertionError as error:
            problems.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=user)
    thread.start()
    status = run('in', '-o', 'out', '--watch', '0.05')
    thread.join()
    assert not problems
    assert status == 1
    captured = capsys.readouterr()
    assert '4 written, 1 skipped, 1 failed' in captured.out
    assert 'failed:' not in captured.err  # each is reported once, when it happens
    assert written(out)['new.png'][3] == 90
    assert written(out)['sub/deep/c.png'][0] == 7
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_watch_waits_until_a_file_stays_the_same(backend, folder, monkeypatch):
    """A file that grows between all looks is never taken."""
    stop, looks = SignalSafeEvent(), []

    def state(path):
        looks.append(path)
        if len(looks) > 30:
            stop.set()
        return (len(looks), 0) if path.name == 'a.png' else (0, 0)

    monkeypatch.setattr('mmbirefnet.cli.watch.file_state', state)
    writer = OutputWriter('out', 'mask', overwrite=False)
    job = ImageJob(BiRefNetInferencer(backend=backend), writer, on_error=lambda *_: None)
    watch(job, ['in'], 0.001, stop)
    assert job.report.written == 2
    assert sorted(writer.out_dir.rglob('a_*')) == [writer.out_dir / 'a_jpg.png']


# Many signals while it is set and waited for; those of threads of the same process would hardly come at a bad moment.
SIGNALS = """
import os
import signal
import subprocess
import sys

from mmbirefnet.cli.watch import stopped_by_signals

signal.signal(signal.SIGTERM, signal.SIG_IGN)
send = f"import os; [os.kill({os.getpid()}, 15) for _ in iter(int, 1)]"
with subprocess.Popen([sys.executable, '-c', send]) as sender:
    try:
        for _ in range(300):
            with stopped_by_signals() as stop:
                while not stop.is_set():
                    stop.wait(1e-6)
    finally:
        sender.kill()
"""


def test_signals_at_any_moment_stop_a_watch():
    done = subprocess.run([sys.executable, '-c', SIGNALS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]


def test_progress_shows_images_per_second():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with ImageProgress(4, 'comparing', console=console) as progress:
        for _ in range(4):
            time.sleep(0.01)
            progress.advance()
    shown = screen.getvalue()
    assert 'comparing' in shown
    assert '4/4' in shown
    assert 'img/s' in shown
    assert float(shown.rsplit(' img/s', 1)[0].split()[-1].split('m')[-1]) > 1
