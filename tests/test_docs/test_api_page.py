"""The API reference lists every public name."""

import importlib
import pkgutil
import re
from types import ModuleType

from doc_blocks import ROOT

import mmbirefnet


def test_all_public_names_are_listed():
    listed = set(re.findall(r'(?:auto\w+|py:data):: .*\.(\w+)$', (ROOT / 'docs/en/api.md').read_text('utf-8'), re.M))
    packages = [name for _, name, is_package in pkgutil.walk_packages(mmbirefnet.__path__, 'mmbirefnet.') if is_package]
    missing = []
    for package in map(importlib.import_module, ('mmbirefnet', *packages)):
        for name in getattr(package, '__all__', ()):
            is_version = name in ('__version__', 'version_info')
            if name not in listed and not is_version and not isinstance(getattr(package, name), ModuleType):
                missing.append(f'{package.__name__}.{name}')
    assert not missing
