"""Images decoded in worker processes: the same images and errors, and no way for a file to pass the limits."""

import gc
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import bad_files
import numpy as np
import psutil
import pytest
from bad_files import POSTSCRIPT, iptc, slow_jpeg
from PIL import Image, ImageCms
from processes import run_forked

from mmbirefnet.imaging.read import TooManyPixelsError, load_image
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.shared_buffer import KEPT_BYTES

WHOLE = bad_files.intact_images()


@pytest.fixture(scope='module')
def decoder():
    with ImageDecoder(seconds=60) as decoder:
        yield decoder


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture
def decoder_and_worker():
    """A decoder and its only worker, whatever else this process has started."""
    others = children()
    with ImageDecoder(seconds=60) as decoder:
        decoder.read(WHOLE['rgb.png'])
        (worker,) = children() - others
        yield decoder, worker


def png(width: int, height: int) -> bytes:
    """A whole black PNG of one bit a pixel, tiny for its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    rows = zlib.compress(bytes(((width + 7) // 8 + 1) * height))
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def wide_tile() -> bytes:
    """A TIFF of 10x10 pixels in one tile of 30000x30000."""
    tags = [(256, 10), (257, 10), (258, 8), (259, 1), (262, 1), (277, 1), (322, 30000), (323, 30000), (324, 200)]
    tags.append((325, 100))
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(300)


def icon(width: int, height: int) -> bytes:
    """An icon that declares 16x16 pixels and holds a larger PNG."""
    image = png(width, height)
    return struct.pack('<HHHBBBBHHII', 0, 1, 1, 16, 16, 0, 0, 1, 32, len(image), 22) + image


@pytest.mark.parametrize('name', WHOLE)
def test_worker_reads_the_same_image(decoder, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    here, there = load_image(path), decoder.read(path)
    assert np.array_equal(there.rgb, here.rgb)
    assert np.array_equal(there.alpha, here.alpha)
    assert (there.icc_profile, there.name, there.path) == (here.icc_profile, str(path), path)
    assert np.array_equal(decoder.read(WHOLE[name], 'upload').rgb, here.rgb)


def test_profile_and_orientation(decoder):
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    exif, buffer = image.getexif(), io.BytesIO()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    image.save(buffer, 'PNG', exif=exif, icc_profile=profile)
    read = decoder.read(buffer.getvalue())
    assert read.size == (3, 2)
    assert read.icc_profile == profile
    read.rgb[:] = 1  # may be written to, as any array


def test_warnings_arrive(decoder):
    buffer = io.BytesIO()
    Image.new('RGB', (2, 2)).save(buffer, 'PNG', icc_profile=b'nonsense' * 20)
    with pytest.warns(UserWarning, match=r'a\.png: the color profile does not fit'):
        decoder.read(buffer.getvalue(), 'a.png')


def test_worker_raises_the_same_errors(decoder, tmp_path):
    for case in [*bad_files.cut_off({'rgb.png': WHOLE['rgb.png']}), *bad_files.wrong_kinds(('.png',))]:
        path = case.write(tmp_path)
        outcomes = []
        for read in (load_image, decoder.read):
            try:
                outcomes.append(read(path).rgb.tobytes())
            except (OSError, ValueError) as error:
                outcomes.append((type(error) is TooManyPixelsError, str(error)[:100]))
        assert outcomes[0] == outcomes[1] or outcomes[0][0] is True  # bombs: our limit's words, not Pillow's
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        decoder.read(tmp_path / 'gone.png')
    with pytest.raises(OSError, match='not a regular file'):
        decoder.read(tmp_path)
    with pytest.raises(TypeError, match='ndarray'):
        decoder.read(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('seed', range(4))
def test_formats_in_formats(seed):
    """Each is read, or refused with its name."""
    cases = list(bad_files.mixed(seed))
    assert len(cases) > 60
    wrong = []
    with ImageDecoder(seconds=60, max_pixels=10**6) as decoder:
        for case in cases:
            try:
                height, width = decoder.read(case.data, case.name).size
                assert height * width <= 10**6
            except (OSError, ValueError) as error:
                if not str(error).startswith(f'{case.name}: ') or 'crashed' in str(error):
                    wrong.append(error)
    assert not wrong


@pytest.mark.parametrize(
    'data', [POSTSCRIPT, iptc(POSTSCRIPT), iptc(WHOLE['rgb.png'])], ids=['eps', 'iptc-eps', 'iptc']
)
def test_no_program_is_started_and_no_container_opened(decoder, data):
    for read in (decoder.read, load_image):
        with pytest.raises(OSError, match=r'evil\.png: (not an image|PostScript)'):
            read(data, 'evil.png')
    assert not [process for process in children() if 'gs' in process.name()]


@pytest.mark.soak
def test_time_is_limited():
    data, others = slow_jpeg(), children()
    with ImageDecoder(seconds=1) as decoder:
        decoder.read(WHOLE['rgb.png'])  # the worker has started
        (worker,) = children() - others
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r'slow\.jpg: decoding took longer than 1 s'):
            decoder.read(data, 'slow.jpg')
        assert time.monotonic() - start < 5
        assert not worker.is_running()
        assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'TIFF'])
@pytest.mark.soak(keep=1)
def test_memory_is_limited(format):
    """By OpenCV and by Pillow."""
    data = bad_files.encoded(
        Image.new('RGB', (9000, 9000)), format, **dict(TIFF=dict(compression='tiff_lzw')).get(format, {})
    )
    with ImageDecoder(memory=200 * 2**20, seconds=60) as decoder:
        with pytest.raises(OSError, match=r'big\.png: decoding needs more memory than allowed for 9000x9000 pixels'):
            decoder.read(data, 'big.png')
        assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)


def test_tiles_are_no_way_around_the_limits(decoder):
    for read in (decoder.read, load_image):
        with pytest.raises((OSError, ValueError), match=r'tile\.tif'):
            read(wide_tile(), 'tile.tif')


@pytest.mark.parametrize('data', [png(100, 101), icon(100, 101)], ids=['png', 'icon'])
def test_pixels_are_limited(data):
    with ImageDecoder(max_pixels=10_000, seconds=60) as decoder:
        assert decoder.read(png(100, 100)).size == (100, 100)
        with pytest.raises(TooManyPixelsError, match=r'many\.png'):
            decoder.read(data, 'many.png')
    with pytest.raises(TooManyPixelsError, match=r'many\.png.*100x101'):
        load_image(data, 'many.png', max_pixels=10_000)


def test_limit_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert load_image(png(100, 100), max_pixels=10_000).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_crash_and_death_between_images(decoder_and_worker):
    decoder, worker = decoder_and_worker
    worker.kill()
    worker.wait()
    others = children()
    assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)
    (worker,) = children() - others
    data = slow_jpeg()  # before the thread starts: it takes time, and the worker is to crash while it decodes

    def crash():
        time.sleep(0.3)
        worker.send_signal(signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(OSError, match=r'slow\.jpg: decoding crashed \(SIGSEGV\)'):
        decoder.read(data, 'slow.jpg')
    thread.join()
    assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)


def test_threads_share_the_workers():
    others = children()
    with ImageDecoder(workers=2, seconds=60) as decoder:
        images = [np.full((30 + k, 20, 3), k, np.uint8) for k in range(40)]
        read = {}

        def work(numbers):
            for k in numbers:
                read[k] = decoder.read(bad_files.encoded(images[k], 'PNG'), str(k))

        threads = [threading.Thread(target=work, args=(range(k, 40, 8),)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(children() - others) == 2
    assert all(np.array_equal(read[k].rgb, image) and read[k].name == str(k) for k, image in enumerate(images))


def shared_memory(worker: psutil.Process) -> Path:
    """The only file in memory that an idle worker has open, by one or more descriptors."""
    files = [file for file in Path(f'/proc/{worker.pid}/fd').iterdir() if os.readlink(file).startswith('/memfd:image')]
    assert len({file.stat().st_ino for file in files}) == 1
    return files[0]


@pytest.mark.skipif(not hasattr(os, 'memfd_create'), reason='files in memory are a feature of Linux')
def test_shared_memory_is_used_again_and_cannot_be_shrunk(decoder_and_worker):
    """Reading pages that a worker has cut off would end this process with SIGBUS."""
    decoder, worker = decoder_and_worker
    before = shared_memory(worker).stat()
    for name in ('rgb.png', 'rgba.png', 'rgb.jpg'):
        decoder.read(WHOLE[name])
        decoder.count_frames(WHOLE[name])
        with pytest.raises(OSError, match='damaged'):
            decoder.read(WHOLE['rgb.png'][:-20])
    after = shared_memory(worker).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    with pytest.raises(PermissionError):
        os.truncate(shared_memory(worker), 0)


def test_images_do_not_share_pixels(decoder):
    names = [name for name in WHOLE if name.endswith('.png')]
    assert len(names) > 5
    images = [decoder.read(WHOLE[name]) for name in names]
    for name, image in zip(names, images, strict=True):
        expected = load_image(WHOLE[name])
        assert np.array_equal(image.rgb, expected.rgb)
        assert np.array_equal(image.alpha, expected.alpha)


def test_more_pixels_than_a_worker_keeps(decoder_and_worker):
    """The shared memory grows while frames are read, is handed over with them, and replaced for the next image."""
    decoder, worker = decoder_and_worker
    levels = (10, 20, 30)
    pages = [Image.new('L', (4000, 2500), level) for level in levels]  # 30 MB of RGB each
    data = bad_files.encoded(pages[0], 'TIFF', compression='tiff_lzw', save_all=True, append_images=pages[1:])
    frames = decoder.read(data, frames='all').frames
    assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)
    assert shared_memory(worker).stat().st_size <= KEPT_BYTES
    frames[1].rgb[:] = 77
    decoder.read(data, frames='all')
    assert [(frame.rgb.min(), frame.rgb.max()) for frame in frames] == [(10, 10), (77, 77), (30, 30)]


def test_interrupts_do_not_reach_workers(decoder_and_worker):
    _, worker = decoder_and_worker
    assert os.getpgid(worker.pid) == worker.pid != os.getpgrp()  # a group of its own, killed as a whole


def test_forked_process_has_its_own_workers(decoder_and_worker):
    decoder, worker = decoder_and_worker
    before = children()

    def read():
        assert decoder.read(WHOLE['rgb.png']).size == (bad_files.HEIGHT, bad_files.WIDTH)
        decoder.close()

    assert run_forked(read) == 0
    assert worker.is_running()
    decoder.read(WHOLE['rgb.png'])
    assert children() == before


def test_close_ends_the_worker():
    others = children()
    decoder = ImageDecoder(seconds=60)
    decoder.read(WHOLE['rgb.png'])
    (worker,) = children() - others
    decoder.close()
    decoder.close()
    assert not worker.is_running()
    with pytest.raises(ValueError, match='closed'):
        decoder.read(WHOLE['rgb.png'])
    decoder = ImageDecoder(seconds=60)
    image = decoder.read(WHOLE['rgb.png'])
    (worker,) = children() - others
    del decoder
    gc.collect()
    assert not worker.is_running()
    assert np.array_equal(image.rgb, load_image(WHOLE['rgb.png']).rgb)  # pixels outlive the decoder


def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / 'a.png').write_bytes(WHOLE['rgb.png'])
    script = (
        'import sys, time\nfrom mmbirefnet.imaging.sandbox import ImageDecoder\n'
        "decoder = ImageDecoder(seconds=60)\ndecoder.read(sys.argv[1])\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, '-c', script, str(tmp_path / 'a.png')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == 'ready\n'
        (worker,) = psutil.Process(parent.pid).children()
        parent.kill()
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running()


def test_workers_import_neither_torch_nor_openmmlab():
    script = (
        'import sys, mmbirefnet\nbefore = set(sys.modules)\nimport cv2, mmbirefnet.imaging.sandbox_worker\n'
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    imported = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout.split()
    assert not {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain'} & set(imported)


@pytest.mark.parametrize('option', [dict(seconds=0), dict(workers=-1), dict(max_pixels=float('nan'))])
def test_wrong_options(option):
    (name,) = option
    with pytest.raises(ValueError, match=name):
        ImageDecoder(**option)
