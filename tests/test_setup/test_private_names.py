"""Tests use the public names of the package only, so that its inner parts can change."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Names that PyTorch and mmengine define too; tests use theirs.
THEIRS = {'_apply', '_metadata', '_load_from'}


def private_definitions() -> set[str]:
    """Functions, classes, variables and attributes of the package and its tools with one leading underscore."""
    found = set()
    for path in (*ROOT.glob('mmbirefnet/**/*.py'), *ROOT.glob('tools/**/*.py')):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if name.startswith('_') and not name.startswith('__') and name != '_'} - THEIRS


def used_names(path: Path):
    """Names of other modules that a file uses, each with its line."""
    nodes = list(ast.walk(ast.parse(path.read_text('utf-8'))))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        used = []
        if isinstance(node, ast.Attribute):
            used = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmbirefnet'):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # as of monkeypatch.setattr
            used = [node.value]
        yield from ((name, node.lineno) for name in used if name not in own)


def test_public_names_only():
    """A private name is tested through a public one, or becomes public."""
    private = private_definitions()
    files = sorted(ROOT.glob('tests/**/*.py'))
    found = [f'{path}:{line}: {name}' for path in files for name, line in used_names(path) if name in private]
    assert found == []
