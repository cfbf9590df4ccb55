"""Tools are scripts outside of the package."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_tool(path: Path) -> ModuleType:
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(f'tool_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
