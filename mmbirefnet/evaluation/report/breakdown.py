"""Scores by class and by group of classes, from DIS5K's file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mmbirefnet.evaluation.report.tables import TableRow
from mmbirefnet.evaluation.scoring import Scores, aggregate


class Dis5kName(NamedTuple):
    """What a file stem such as ``2#Aircraft#7#UAV#3522858070`` says."""

    group: str
    class_name: str


def parse_dis5k_name(stem: str) -> Dis5kName | None:
    """Group and class of a DIS5K stem, ``None`` for a stem of another form."""
    fields = stem.split('#')
    return Dis5kName(fields[1], fields[3]) if len(fields) >= 4 else None


def rows_by(what: str, method: str, scores: Mapping[str, Scores]) -> list[TableRow]:
    """One row per ``'group'`` or ``'class_name'`` with its number of images as the note; none without such names.

    Args:
        what: field of ``Dis5kName``.
        method: name of the method.
        scores: of each image, by its stem.
    """
    parts: dict[str, list[Scores]] = {}
    for stem, image_scores in scores.items():
        name = parse_dis5k_name(stem)
        if name is not None:
            parts.setdefault(getattr(name, what), []).append(image_scores)
    return [TableRow(part, method, aggregate(parts[part]), f'{len(parts[part])} images') for part in sorted(parts)]
