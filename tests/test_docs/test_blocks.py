"""Every block of code of the documentation is run by a test, or states why not, and names options that exist."""

import argparse
import ast
import contextlib
import importlib
import os
import runpy
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, SHELL, all_blocks, commands

from mmbirefnet.cli.main import COMMANDS

BLOCKS = [block for page in PAGES for block in all_blocks(page)]


def own_words(words: list[str]) -> list[str]:
    """The part of a command that begins with ``mmbirefnet`` or one of our tools; empty if there is none."""
    starts = [i for i, word in enumerate(words) if word == 'mmbirefnet' or word.startswith(('tools/', 'demo/'))]
    ends = [i for i, word in enumerate(words) if word in '>|' and i > min(starts, default=0)]
    return words[starts[0] : min(ends, default=None)] if starts else []


OWN = [
    (f'{block.page}:{block.line}', own_words(words))
    for block in BLOCKS
    if block.language in SHELL
    for words in commands(block.code)
    if own_words(words) and not (words[0] == 'python' and words[1] == '-m')
]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_markers(page):
    lines = [block.line for block in all_blocks(page) if not (block.name or block.reason)]
    assert not lines, f'{page}: no marker above the blocks of these lines. Fix: see tests/helpers/doc_blocks.py'


def names_taken(path: Path) -> set[tuple[str, str]]:
    """Pages and names of the calls ``blocks(PAGE, NAME)`` of a test file, where ``NAME`` may be a constant."""
    tree = ast.parse(path.read_text('utf-8'))
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    return {
        tuple(getattr(argument, 'value', None) or constants.get(argument.id) for argument in node.args)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'blocks'
    }


def test_every_named_block_is_taken_by_a_test():
    files = [path for path in (ROOT / 'tests').rglob('test_*.py') if 'blocks(' in path.read_text('utf-8')]
    assert set().union(*map(names_taken, files)) == {(block.page, block.name) for block in BLOCKS if block.name}


class Parsed(Exception):
    """A tool has parsed its options, which is where this test ends it."""


@pytest.mark.parametrize(('place', 'words'), OWN, ids=[f'{place}-{words[0]}' for place, words in OWN])
def test_options(place, words, monkeypatch):
    """Each parser accepts them, without a run."""
    monkeypatch.setattr(os, 'environ', dict(os.environ))  # tools set variables
    script, *arguments = words
    if script == 'mmbirefnet':
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[arguments[0]][0]).add_arguments(parser)
        parser.parse_args(arguments[1:])
        return
    assert (ROOT / script).is_file(), place
    if script.endswith('.sh'):  # tools/dist_train.sh CONFIG GPUS …, tools/dist_test.sh CONFIG CHECKPOINT GPUS …
        if 'dist_' not in script:
            return
        del arguments[1 if 'train' in script else 2]
        script = script.replace('dist_', '').replace('.sh', '.py')
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    monkeypatch.setattr('sys.argv', [script, *arguments])
    with contextlib.suppress(Parsed):
        runpy.run_path(str(ROOT / script), run_name='__main__')
