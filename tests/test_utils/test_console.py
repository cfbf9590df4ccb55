"""Names that the terminal's encoding lacks, or that are not UTF-8."""

import io
import os
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmbirefnet.utils.console import escape_unprintable, printable

ROOT = Path(__file__).parents[2]


def terminal(monkeypatch, encoding):
    """Standard output in that encoding; returns what receives its bytes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, 'stdout', stream)
    return stream.buffer


@pytest.mark.parametrize('encoding', ['ascii', 'utf-8'])
def test_output_is_escaped(monkeypatch, encoding):
    written = terminal(monkeypatch, encoding)
    name = os.fsdecode(b'caf\xe9.jpg')
    with pytest.raises(UnicodeEncodeError):
        print(name)
    escape_unprintable()
    print(name)
    assert written.getvalue().strip() == rb'caf\udce9.jpg'
    assert printable(name + 'é') == r'caf\udce9.jpgé'


@pytest.mark.parametrize('encoding', ['ascii', 'utf-8'])
def test_check_dataset_goes_through(tmp_path, monkeypatch, encoding):
    for folder in ('im', 'gt'):
        (tmp_path / folder).mkdir()
        pixels = cv2.imencode('.png', np.full((4, 4), 255, np.uint8))[1].tobytes()
        Path(os.fsdecode(os.fsencode(tmp_path / folder) + b'/caf\xe9.png')).write_bytes(pixels)
    (tmp_path / 'gt' / 'caché.txt').touch()
    written = terminal(monkeypatch, encoding)
    monkeypatch.setattr(sys, 'argv', ['check_dataset.py', str(tmp_path), '--processes', '1'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/dataset_converters/check_dataset.py'), run_name='__main__')
    assert stop.value.code == 1
    (problem, summary) = written.getvalue().decode().splitlines()
    assert problem.endswith('txt: other-file: not used')
    assert summary.endswith(': 1 images, 1 masks: 1 other-file')
