"""Tables of scores as Markdown, CSV and LaTeX, in the column order of the papers, and checkpoints ranked by score."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from mmbirefnet.datasets import CODDataset, DIS5KDataset, HRSODDataset, MattingDataset
from mmbirefnet.evaluation.functional import MEASURES
from mmbirefnet.evaluation.scoring import Scores, aggregate, lower_is_better

TASK_COLUMNS = {
    'DIS5K': ('maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE'),
    'COD': ('Smeasure', 'wFmeasure', 'meanFm', 'meanEm', 'maxEm', 'MAE'),
    'HRSOD': ('Smeasure', 'maxFm', 'meanEm', 'MAE', 'wFmeasure'),
    'Matting': (
        *('SAD', 'MSE', 'MAE', 'Grad', 'Conn', 'SAD-T', 'MSE-T', 'Grad-T', 'Conn-T'),
        *('Smeasure', 'wFmeasure', 'maxFm', 'meanEm'),
    ),
}
"""Columns by task, as in Zheng et al. (2024) for the first three; wFmeasure of HRSOD is from other papers.

The tasks are the families of the data sets.
"""

TEST_SETS = {
    'DIS5K': ('DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'),
    'COD': ('TE-CAMO', 'CHAMELEON', 'TE-COD10K', 'NC4K'),
    'HRSOD': ('DAVIS-S', 'TE-HRSOD', 'TE-UHRSD', 'TE-DUTS', 'DUT-OMRON'),
    'Matting': ('TE-P3M-500-NP', 'TE-AM-2k', 'TE-P3M-500-P'),
}
"""Test sets by task, in the order of the tables."""

MEANS = {'DIS-TE(1-4)': TEST_SETS['DIS5K'][1:]}
"""Rows that are the mean over several sets."""

_ABSENT = '–'
_CHECKPOINT = re.compile(r'(?:best_.+_)?(?:epoch|iter)_(\d+)\.pth')


@dataclass(frozen=True)
class TableRow:
    """Scores of one method on one set."""

    name: str
    """Name of the set, or of another entry, such as a class."""
    method: str
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ''
    """Source of a published row, or a note about missing data."""


def task_of(sets: Sequence[str]) -> str | None:
    """The task that all of these sets belong to, or ``None``."""
    for dataset in (DIS5KDataset, CODDataset, HRSODDataset, MattingDataset):
        if sets and set(sets) <= {*dataset.SET_SIZES, *_means_of(tuple(dataset.SET_SIZES))}:
            return dataset.FAMILY
    return None


def columns_of(rows: Sequence[TableRow], task: str | None = None) -> tuple:
    """Columns of the task; without a task, all measures that a row has.

    Raises:
        ValueError: If the task is unknown.
    """
    if task is not None and task not in TASK_COLUMNS:
        raise ValueError(f'task: expected one of {", ".join(TASK_COLUMNS)}; got {task}')
    task = task or task_of([row.name for row in rows])
    scored = {metric for row in rows for metric in row.scores}
    return tuple(metric for metric in (TASK_COLUMNS[task] if task else MEASURES) if metric in scored)


def with_means(
    scores: Mapping[str, Mapping[str, float]], means: Mapping[str, Sequence[str]] = MEANS
) -> dict[str, Mapping[str, float]]:
    """Scores by set, in table order, with the mean rows.

    Args:
        scores: Scores of each set.
        means: Rows to add, each the mean over several sets; omitted if one of the sets has no scores.
    """
    rows = dict(scores)
    for name, sets in means.items():
        if all(rows.get(s) for s in sets):
            rows[name] = {measure: float(np.mean([rows[s][measure] for s in sets])) for measure in rows[sets[0]]}
    return {name: rows[name] for name in in_table_order(rows)}


def to_keys(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flatten scores by set to the dict that a test returns, with keys ``<set>/<measure>``."""
    return {f'{name}/{measure}': value for name, row in scores.items() for measure, value in row.items()}


def from_keys(metrics: Mapping[str, float], name: str) -> dict[str, dict[str, float]]:
    """Convert the flat dict that a test returns to scores by set; keys of other metrics are omitted.

    Args:
        metrics: Scores by ``<set>/<measure>``, or by ``<measure>`` if there is one set.
        name: Name of the set in the latter case.
    """
    scores: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        set_name, _, measure = key.rpartition('/')
        if measure in MEASURES:
            scores.setdefault(set_name or name, {})[measure] = value
    return scores


def rows_of_sets(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    notes: Mapping[tuple[str, str], str] | None = None,
    published: Sequence[TableRow] = (),
) -> list[TableRow]:
    """The rows of a table: each set with all methods, then the published ones.

    Args:
        scores: Scores by method and set, see :func:`with_means`.
        notes: Notes by method and set; sets with only a note get a row without scores.
        published: Rows of :func:`load_published`; rows of sets that ``scores`` does not have are omitted.
    """
    notes = notes or {}
    keys = dict.fromkeys([*((method, name) for method, sets in scores.items() for name in sets), *notes])
    rows = [
        TableRow(name, method, scores[method].get(name, {}), notes.get((method, name), '')) for method, name in keys
    ]
    names = in_table_order([row.name for row in rows])
    rows += [replace(row, method=f'{row.method} (published)') for row in published]
    return [row for name in names for row in rows if row.name == name]


def in_table_order(names: Sequence[str]) -> list[str]:
    """Sort names of sets: those of the benchmarks in their order, then the mean rows, then all others as given."""
    known = [name for task in TEST_SETS.values() for name in (*task, *_means_of(task))]
    return [name for name in known if name in names] + [name for name in dict.fromkeys(names) if name not in known]


def to_markdown(rows: Sequence[TableRow], columns: Sequence[str], heading: str = 'set') -> str:
    """Return a Markdown table, with arrows for the direction of each measure."""
    arrows = [f'{metric} {"↓" if lower_is_better(metric) else "↑"}' for metric in columns]
    noted = any(row.note for row in rows)
    lines = [[heading, 'method', *arrows, *(['note'] if noted else [])]]
    lines.append(['---', '---', *['---:'] * len(columns), *(['---'] if noted else [])])
    for row in rows:
        cells = [row.name, row.method, *_numbers(row, columns), *([row.note] if noted else [])]
        lines.append([cell.replace('|', r'\|') for cell in cells])
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def to_csv(rows: Sequence[TableRow], columns: Sequence[str], path: str | Path, heading: str = 'set') -> None:
    """Write a CSV file with all digits."""
    with open(path, 'w', newline='', encoding='utf-8', errors='backslashreplace') as file:
        writer = csv.writer(file)
        writer.writerow([heading, 'method', *columns, 'note'])
        for row in rows:
            writer.writerow([row.name, row.method, *(row.scores.get(metric, '') for metric in columns), row.note])


def to_latex(rows: Sequence[TableRow], columns: Sequence[str], heading: str = 'set') -> str:
    """Return a LaTeX ``tabular`` that needs no package; notes are comments after their rows."""
    arrows = [
        MEASURES[metric].latex + (r'$\downarrow$' if lower_is_better(metric) else r'$\uparrow$') for metric in columns
    ]
    lines = [
        rf'\begin{{tabular}}{{ll{"r" * len(columns)}}}',
        r'\hline',
        ' & '.join([heading, 'method', *arrows]) + r' \\',
    ]
    previous = None
    for row in rows:
        if row.name != previous:
            lines.append(r'\hline')
        previous = row.name
        cells = [_escape(row.name), _escape(row.method), *(n.replace(_ABSENT, '--') for n in _numbers(row, columns))]
        lines.append(' & '.join(cells) + r' \\' + (f' % {row.note}' if row.note else ''))
    return '\n'.join([*lines, r'\hline', r'\end{tabular}', ''])


def write_tables(
    rows: Sequence[TableRow], columns: Sequence[str], stem: str | Path, heading: str = 'set'
) -> list[Path]:
    """Write ``<stem>.md``, ``.csv`` and ``.tex``, and return their paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in ('.md', '.csv', '.tex')]
    paths[0].write_text(to_markdown(rows, columns, heading), encoding='utf-8')
    to_csv(rows, columns, paths[1], heading)
    paths[2].write_text(to_latex(rows, columns, heading), encoding='utf-8')
    return paths


def _means_of(sets: Sequence[str]) -> list[str]:
    return [name for name, members in MEANS.items() if set(members) <= set(sets)]


def _numbers(row: TableRow, columns: Sequence[str]) -> list[str]:
    return [_number(metric, row.scores.get(metric)) for metric in columns]


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return _ABSENT
    return f'{value:.{MEASURES[metric.rpartition("/")[2]].digits}f}'


def _escape(text: str) -> str:
    return ''.join('\\' + character if character in '&%$#_{}' else character for character in text)


def load_published(path: str | Path, config: str | None = None) -> list[TableRow]:
    """Read the rows of a metafile, one per result of a model, with its source as the note.

    Args:
        path: A YAML file with ``Models``; each of their ``Results`` has ``Dataset``, ``Metrics`` and ``Source``.
        config: Stem of a config file; only rows of models with this ``Config`` are returned.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a result has no source, or an unknown measure.
    """
    content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    rows = []
    for model in content['Models']:
        if config is not None and Path(model.get('Config', '')).stem != config:
            continue
        for result in model.get('Results', ()):
            unknown = sorted(set(result['Metrics']) - set(MEASURES))
            if unknown or not result.get('Source'):
                what = f'unknown measures {", ".join(unknown)}' if unknown else 'no Source'
                raise ValueError(f'{path}: {model["Name"]} on {result["Dataset"]}: {what}')
            rows.append(TableRow(result['Dataset'], model['Name'], result['Metrics'], result['Source']))
    return rows


class Dis5kName(NamedTuple):
    """Class and group in a file stem such as ``2#Aircraft#7#UAV#3522858070``."""

    group: str
    class_name: str


def parse_dis5k_name(stem: str) -> Dis5kName | None:
    """Group and class of a DIS5K stem; ``None`` for other stems."""
    fields = stem.split('#')
    return Dis5kName(fields[1], fields[3]) if len(fields) >= 4 else None


def rows_by(what: str, method: str, scores: Mapping[str, Scores]) -> list[TableRow]:
    """One row per ``'group'`` or ``'class_name'``, with its number of images as the note; empty without such names.

    Args:
        what: Field of ``Dis5kName``.
        method: Name of the method.
        scores: Scores of each image, by its stem.
    """
    parts: dict[str, list[Scores]] = {}
    for stem, image_scores in scores.items():
        name = parse_dis5k_name(stem)
        if name is not None:
            parts.setdefault(getattr(name, what), []).append(image_scores)
    return [TableRow(part, method, aggregate(parts[part]), f'{len(parts[part])} images') for part in sorted(parts)]


def find_checkpoints(work_dir: str | Path) -> dict[int, Path]:
    """Find checkpoints by epoch or iteration; ``best_...`` is used only if there is no other of the same epoch.

    Raises:
        FileNotFoundError: If there is no checkpoint.
    """
    found: dict[int, Path] = {}
    for path in sorted(Path(work_dir).glob('*.pth')):  # 'best_...' sorts before 'epoch_...', so the latter replaces it
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise FileNotFoundError(f'{work_dir}: no checkpoint epoch_*.pth, iter_*.pth or best_*.pth')
    return dict(sorted(found.items()))


def read_logged_scores(work_dir: str | Path) -> dict[int, dict[str, float]]:
    """Read logged validation scores of a work directory by epoch or iteration; later runs override earlier ones."""
    scores: dict[int, dict[str, float]] = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            measures = {key: value for key, value in entry.items() if is_measure(key)}
            if measures and 'lr' not in entry:
                scores.setdefault(entry['step'], {}).update(measures)
    return scores


def is_measure(key: str) -> bool:
    """Whether a key of a log is one of our measures, with or without a set: ``HCE``, ``DIS-VD/HCE``."""
    return key.rpartition('/')[2] in MEASURES


def rank(scores: Mapping[int, Mapping[str, float]], measures: Sequence[str]) -> list[int]:
    """Sort the keys of ``scores`` from best to worst by the mean of their ranks on all measures, then by the first one.

    Args:
        scores: Scores of each checkpoint; checkpoints without one of the measures are skipped.
        measures: Keys of the scores. For MAE, MSE and HCE, lower is better.

    Raises:
        ValueError: If a measure is unknown.
    """
    unknown = [measure for measure in measures if not is_measure(measure)]
    if unknown or not measures:
        raise ValueError(f'measures: expected some of {", ".join(MEASURES)}; got {", ".join(unknown) or "none"}')
    complete = [key for key, row in scores.items() if all(measure in row for measure in measures)]
    if not complete:
        return []
    # Negate where needed, so that smaller is always better.
    values = np.array([[_cost(measure, scores[key][measure]) for measure in measures] for key in complete])
    # Equal scores share the best of their ranks.
    ranks = (values[None, :, :] < values[:, None, :]).sum(axis=1)
    order = np.lexsort((values[:, 0], ranks.mean(axis=1)))
    return [complete[index] for index in order]


def _cost(measure: str, value: float) -> float:
    return value if lower_is_better(measure) else -value
