"""Deferred imports of a module that counts how often it is run."""

import inspect
import sys

import pytest

from mmbirefnet.utils.deferred_import import deferred_import, hidden_import

SOURCE = """
import builtins
from . import part
builtins.deferred_runs = getattr(builtins, 'deferred_runs', 0) + 1
value = 3
"""


@pytest.fixture
def big(tmp_path, monkeypatch):
    """A package, and how often it was run."""
    (tmp_path / 'big').mkdir()
    (tmp_path / 'big/__init__.py').write_text(SOURCE)
    (tmp_path / 'big/part.py').write_text('value = 4\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr('builtins.deferred_runs', 0, raising=False)
    yield lambda: __import__('builtins').deferred_runs
    for name in ('big', 'big.part'):
        sys.modules.pop(name, None)


def test_module_is_imported_when_it_is_used(big):
    with deferred_import('big'):
        import big as user

        assert inspect.getmodule(inspect.currentframe()).__name__ == __name__  # looks at all modules
    assert big() == 0
    assert 'big' not in sys.modules
    assert user.value == 3
    assert user.part.value == 4
    assert big() == 1
    assert sys.modules['big'].value == 3  # the real one


def test_submodule_imports_its_package(big):
    with deferred_import('big'):
        from big.part import value
    assert (value, big()) == (4, 1)
    assert sys.modules['big'].value == 3


def test_module_is_imported_on_use_within_the_context(big):
    with deferred_import('big'):
        import big as user

        assert user.value == 3
    assert sys.modules['big'].value == 3
    assert big() == 1


def test_imported_and_absent_modules_are_left_alone(big):
    import big as imported

    with deferred_import('big'):
        import big as again
    assert again is imported
    with deferred_import('no_such_module'), pytest.raises(ModuleNotFoundError):
        import no_such_module  # noqa: F401


def test_hidden_module_is_absent_within_the_context_only(big):
    with hidden_import('big'), pytest.raises(ImportError):
        from big import value
    from big import value

    assert (value, big()) == (3, 1)
    with hidden_import('big'):
        from big import value  # imported before
