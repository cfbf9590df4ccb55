"""What docs/en/user_guides/export.md shows is held to the code."""

import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from mmbirefnet.apis.onnx_backend import OUTPUT_NAMES, OnnxBackend
from mmbirefnet.fileio.onnx_metadata import OnnxMetadata

pytest.importorskip('mmbirefnet.deploy.program', exc_type=ImportError)  # torch < 2.6
from mmbirefnet.deploy.onnx import LOWEST_OPSETS  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/en/user_guides/export.md').read_text('utf-8')
COMMANDS = re.findall(r'^ *python tools/export_onnx\.py (.+)$', PAGE.replace('\\\n', ''), re.M)


@pytest.mark.parametrize('words', COMMANDS)
def test_commands_parse(words, monkeypatch):
    parse_args = runpy.run_path(str(ROOT / 'tools/export_onnx.py'))['parse_args']
    words = words.replace('$CONFIG', 'CONFIG').replace('$CHECKPOINT', 'CHECKPOINT')
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', *shlex.split(words)])
    args = parse_args()
    assert args.config
    assert args.checkpoint.endswith(('.pth', 'CHECKPOINT'))


def test_the_order_of_the_crops_reaches_the_model(monkeypatch):
    main = runpy.run_path(str(ROOT / 'tools/export_onnx.py'))['main']

    def load(*args, **options):
        raise ValueError(options['crop_order'])

    monkeypatch.setitem(main.__globals__, 'TorchBackend', load)
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', 'c.py', 'w.pth', '-o', 'm.onnx', '--crop-order', 'columns'])
    with pytest.raises(SystemExit, match='error: columns'):
        main()


def test_there_are_commands():
    assert len(COMMANDS) >= 5


def test_names_are_those_of_the_code():
    keys = set(re.findall(r'`mmbirefnet\.(\w+)`', PAGE)) - {'json'}
    assert keys == {key.removeprefix('mmbirefnet.') for key in OnnxMetadata((32, 32)).to_props()}
    for name in (*OUTPUT_NAMES, *LOWEST_OPSETS, *inspect.signature(OnnxBackend).parameters):
        assert f'`{name}`' in PAGE or f'`{name}=' in PAGE, name


@pytest.mark.parametrize('path', sorted(set(re.findall(r'\]\(((?!http)[^)#]+)\)', PAGE))))
def test_links(path):
    assert (ROOT / 'docs/en/user_guides' / path).exists()


def test_former_name_of_images(monkeypatch):
    parse_args = runpy.run_path(str(ROOT / 'tools/export_onnx.py'))['parse_args']
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', 'CONFIG', 'CHECKPOINT', '-o', 'a.onnx', '--pictures', 'a', 'b'])
    with pytest.deprecated_call(match='--pictures is now called --images'):
        assert parse_args().images == ['a', 'b']
