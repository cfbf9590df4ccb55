"""What is known of a family of backbones."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]


class BackboneSpec(NamedTuple):
    """A backbone that was told from its parameters."""

    name: str  # as in the names of the configs
    config: dict  # what MODELS.build takes
    channels: tuple[int, int, int, int]  # of its maps, at one scale


class BackboneFamily(NamedTuple):
    """A family of backbones of the reference."""

    title: str
    mark: str  # a key of the reference that only this family has
    rename: Callable[[str], str | None]  # key of the reference to this project's, None for what is not kept
    restore: Callable[[str], str]  # the inverse of rename
    infer: Callable[[Shapes], BackboneSpec | None]  # None for parameters of other families


def rename_by(renames: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """A function that applies each pattern of a table to a key, one after another."""

    def rename(key: str) -> str:
        for pattern, name in renames:
            key = re.sub(pattern, name, key)
        return key

    return rename


def count(shapes: Shapes, prefix: str) -> int:
    """Number of modules in a list whose parameters start with ``prefix``, as in ``blocks.``."""
    return len({key.removeprefix(prefix).split('.')[0] for key in shapes if key.startswith(prefix)})


def choose(family: str, architectures: Mapping[str, dict], found: dict) -> str:
    """Name of the architecture that has the options found.

    Raises:
        ValueError: If none has them.
    """
    for name, architecture in architectures.items():
        if all(architecture[option] == value for option, value in found.items()):
            return name
    raise ValueError(f'no known {family} has {found}; known are {architectures}')
