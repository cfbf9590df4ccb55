"""The page for users of rembg: the commands, options, models and fields that it gives exist here."""

import argparse
import importlib
import re
import shlex

import pytest
from doc_blocks import ROOT, blocks
from fake_backend import RedBackend
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer, inferencer
from mmbirefnet.cli.main import COMMANDS
from mmbirefnet.server.app import create_app
from mmbirefnet.zoo import list_models

NAME = 'docs/en/advanced_guides/migration_rembg.md'


def tables() -> dict[str, list[list[str]]]:
    """Rows of each table, by its heading."""
    parts = (ROOT / NAME).read_text('utf-8').split('\n## ')[1:]
    return {
        part.splitlines()[0]: [
            [cell.strip() for cell in line.strip('|').split('|')] for line in part.splitlines() if line[:3] == '| `'
        ]
        for part in parts
    }


TABLES = tables()


def spans(text: str) -> list[str]:
    return re.findall(r'`([^`]+)`', text)


@pytest.mark.parametrize('command', [c for row in TABLES['Commands'] for c in spans(row[1]) if ' ' in c])
def test_listed_commands_are_accepted(command):
    _, name, *words = shlex.split(command.split(' < ')[0])
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    parser.parse_args(words)


@pytest.mark.parametrize('option', [o for row in TABLES['Options'] for o in spans(row[1]) if o[:2] == '--'])
def test_listed_options_are_accepted(option):
    serves = option.split()[0] in ('--queue', '--decoders', '--threads')
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS['serve' if serves else 'cut'][0]).add_arguments(parser)
    args = parser.parse_args([*shlex.split(option), *([] if serves else ['-o', 'out', 'in'])])
    if args.checkpoint and not serves:
        assert args.checkpoint in list_models()


def test_models():
    names = {name for row in TABLES['Sessions'] for name in spans(row[1]) if name[:2] != '--'}
    assert names <= set(list_models())
    assert {'BiRefNet', 'BiRefNet_lite'} <= names


def test_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inferencer, 'make_backend', lambda *_: RedBackend())
    Image.new('RGB', (40, 30), (200, 30, 10)).save('photo.jpg')
    found = {}
    exec(*blocks(NAME, 'python'), found)
    assert found['cutout'].mode == 'RGBA'
    assert found['mask'].shape == (30, 40)
    row = next(row for row in TABLES['Python'] if 'bgcolor' in row[0])
    on_white = eval(spans(row[1])[0], found | {'Image': Image})
    assert on_white.getpixel((20, 15))[3] == 255


def test_fields_of_the_service():
    app = create_app(BiRefNetInferencer(backend=RedBackend()))
    (schema,) = (s for name, s in app.openapi()['components']['schemas'].items() if name.startswith('Body'))
    fields = {span.partition('=')[0] for row in TABLES['The service'] for span in spans(row[1]) if '/' not in span}
    assert fields <= set(schema['properties'])
    assert '/api/cut' in app.openapi()['paths']


def test_rows_are_those_of_rembg():
    """All options of its command ``p`` of 2.0.86, but for the confirmation of paid models."""
    options = {option for row in TABLES['Options'] for span in spans(row[0]) for option in span.split()[:1]}
    short = {'-m', '-a', '-af', '-ab', '-ae', '-om', '-ppm', '-dc', '-vm', '-w', '-bgc', '-x'}
    assert short <= options
    assert {row[0].split()[1].strip('`') for row in TABLES['Commands']} == set('ipsbdm')
