"""Run the commands and examples of the inference page."""

import argparse
import importlib
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from doc_blocks import blocks, commands
from fake_backend import RedBackend
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer, inferencer
from mmbirefnet.cli import cut, main

ROOT = Path(__file__).parents[2]
NAME = 'docs/en/user_guides/inference.md'
PAGE = (ROOT / NAME).read_text('utf-8')
COMMANDS = [words for code in blocks(NAME, 'commands') for words in commands(code)]


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """The files that the page names."""
    names = ('photo.jpg', 'photos/a.jpg', 'photos/sub/b.jpg', 'a.jpg', 'b.jpg', 'beach.jpg', 'inbox/c.jpg')
    for name in (*names, 'work_dirs/demo/data/DIS-VD/im/d.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 30), (200, 30, 10)).save(tmp_path / name)
    for name in ('own_masks/a.png', 'own_masks/sub/b.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (40, 30), 255).save(tmp_path / name)
    frames = [Image.new('RGB', (40, 30), (red, 30, 10)) for red in (200, 100)]
    frames[0].save(tmp_path / 'dance.gif', save_all=True, append_images=frames[1:], duration=50)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
def test_commands(words, images, monkeypatch):
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=RedBackend()))
    monkeypatch.setattr(inferencer, 'make_backend', lambda *_: RedBackend())
    # Once through, where the command would go on for ever.
    monkeypatch.setattr(cut, 'watch', lambda job, folders, *_: list(job.run(job.plan(cut.list_sources(folders)))))
    assert main.main(words[1:]) == 0
    out = images / words[words.index('-o') + 1]
    assert out.is_file() or any(path.is_file() for path in out.rglob('*'))


def test_pipe(images, monkeypatch):
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=RedBackend()))
    ((_, image, _, *words, _, out),) = commands(*blocks(NAME, 'pipe'))
    assert out == 'cutout.png'
    output = io.BytesIO()
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(buffer=io.BytesIO((images / image).read_bytes())))
    monkeypatch.setattr(sys, 'stdout', SimpleNamespace(buffer=output, encoding='utf-8', write=None, flush=None))
    assert main.main(words[1:]) == 0
    assert Image.open(output).mode == 'RGBA'


def test_python(images, monkeypatch):
    monkeypatch.setattr(inferencer, 'make_backend', lambda *_: RedBackend())
    kept = importlib.import_module('mmbirefnet.apis.cutout').cached_inferencer
    kept.cache_clear()
    namespace = {}
    for code in blocks(NAME, 'python'):
        exec(code, namespace)
    kept.cache_clear()
    assert Image.open('cutout.png').mode == 'RGBA'
    assert namespace['soft_map'].shape == (30, 40)
    assert namespace['cutout'].shape == (30, 40, 4)
    assert len(namespace['maps']) == 2
    assert (images / 'cutouts/sub/b.png').is_file()
    assert (images / 'out/composite/a.jpg').is_file()
    assert 'BiRefNet@2048,guided' in (images / 'page2.html').read_text()


def test_options_exist():
    parser = argparse.ArgumentParser()
    cut.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings} | {'--longest'}  # of compare
    assert set(re.findall(r'`(--[a-z-]+)', PAGE)) - {'--out-file'} <= known


def test_links_and_configs():
    for path in re.findall(r'\]\(((?!http)[^)#]+)\)', PAGE):
        assert (ROOT / 'docs/en/user_guides' / path).exists(), path
    for path in re.findall(r'`(tests/[\w/.]+)`', PAGE):
        assert (ROOT / path).exists(), path
    for name in re.findall(r'`(birefnet_swin[\w-]+)`', PAGE):
        assert any((ROOT / 'configs').rglob(f'{name}.py')), name
