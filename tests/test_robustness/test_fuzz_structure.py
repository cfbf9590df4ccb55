"""Files, options and requests that are built to be odd: each is read right, or ends in an error that names it.

The long run: ``MMBIREFNET_FUZZ_CASES=10000 pytest tests/test_robustness/test_fuzz_structure.py``.
"""

import os
import resource
import time
import warnings

import pytest
import structured_files
from fuzz import cases

from mmbirefnet.imaging.sandbox import HEADER_BYTES, ImageDecoder

pytestmark = pytest.mark.filterwarnings('ignore')  # what Pillow says of damaged files besides
SECONDS = 5  # to decode a file
MEGAPIXELS = 4


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that exists as soon as something starts Ghostscript or a shell by its name."""
    file = tmp_path / 'started'
    (tmp_path / 'bin').mkdir()
    for name in ('gs', 'gswin32c', 'gswin64c', 'convert', 'magick', 'ffmpeg'):
        program = tmp_path / 'bin' / name
        program.write_text(f'#!/bin/sh\n: > {file}\n')
        program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}')
    return file


@pytest.mark.parametrize('build', [structured_files.nested, structured_files.claims])
def test_images(canary, build):
    """In a worker process: within its time and memory, without starting a program."""
    read = 0
    with ImageDecoder(seconds=SECONDS, max_pixels=MEGAPIXELS * 10**6) as decoder:
        for name, rng in cases():
            data = build(rng)
            start = time.monotonic()
            try:
                image = decoder.read(data, name)
            except (OSError, ValueError) as error:
                assert str(error).startswith(name), name
            else:
                read += 1
                assert image.rgb.size <= 3 * MEGAPIXELS * 10**6, name
            assert time.monotonic() - start < SECONDS + 5, name
    assert read
    assert not canary.exists()
    # Of the workers, which have ended: what they import, and what they may allocate.
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    assert most < HEADER_BYTES + 64 * MEGAPIXELS * 10**6 + 200 * 2**20
