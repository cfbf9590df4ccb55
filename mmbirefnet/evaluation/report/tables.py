"""Tables of scores as Markdown, CSV and LaTeX, in the column order of the papers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmbirefnet.datasets import CODDataset, DIS5KDataset, HRSODDataset, MattingDataset
from mmbirefnet.evaluation.scoring import LOWER_IS_BETTER, METRICS

TASK_COLUMNS = {
    'DIS5K': ('maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE'),
    'COD': ('Smeasure', 'wFmeasure', 'meanFm', 'meanEm', 'maxEm', 'MAE'),
    'HRSOD': ('Smeasure', 'maxFm', 'meanEm', 'MAE'),
    'Matting': ('Smeasure', 'wFmeasure', 'MAE', 'MSE', 'maxFm', 'meanEm'),
}
"""Columns by task, for the first three as Zheng et al. (2024) print them; the tasks are the data sets' families."""

TEST_SETS = {
    'DIS5K': ('DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'),
    'COD': ('TE-CAMO', 'CHAMELEON', 'TE-COD10K', 'NC4K'),
    'HRSOD': ('DAVIS-S', 'TE-HRSOD', 'TE-UHRSD', 'TE-DUTS', 'DUT-OMRON'),
    'Matting': ('TE-P3M-500-NP', 'TE-AM-2k', 'TE-P3M-500-P'),
}
"""Test sets by task, in the order of the tables."""

MEANS = {'DIS-TE(1-4)': TEST_SETS['DIS5K'][1:]}
"""Rows that are the mean over several sets' rows."""

_LATEX = dict(
    maxFm=r'$F^{max}_{\beta}$', wFmeasure=r'$F^{\omega}_{\beta}$', MAE=r'$\mathcal{M}$', Smeasure=r'$S_{\alpha}$',
    meanEm=r'$E^{mean}_{\phi}$', HCE=r'$HCE_{\gamma}$', maxEm=r'$E^{max}_{\phi}$', meanFm=r'$F^{mean}_{\beta}$',
    adpEm=r'$E^{adp}_{\phi}$', adpFm=r'$F^{adp}_{\beta}$', mBA=r'$mBA$', maxBIoU=r'$BIoU^{max}$',
    meanBIoU=r'$BIoU^{mean}$', MSE=r'$MSE$',
)  # fmt: skip
_ABSENT = '–'


@dataclass(frozen=True)
class TableRow:
    """Scores of one method on one set."""

    name: str
    """The set, or whatever the table has a row of."""
    method: str
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ''
    """Where a published row is from; what is missing."""


def task_of(sets: Sequence[str]) -> str | None:
    """The task that all of these sets belong to, if there is one."""
    for dataset in (DIS5KDataset, CODDataset, HRSODDataset, MattingDataset):
        if sets and set(sets) <= {*dataset.SET_SIZES, *_means_of(tuple(dataset.SET_SIZES))}:
            return dataset.FAMILY
    return None


def columns_of(rows: Sequence[TableRow], task: str | None = None) -> tuple:
    """The task's columns; without a task, all that a row has a score for.

    Raises:
        ValueError: if the task is unknown.
    """
    if task is not None and task not in TASK_COLUMNS:
        raise ValueError(f'task: expected one of {", ".join(TASK_COLUMNS)}; got {task}')
    task = task or task_of([row.name for row in rows])
    scored = {metric for row in rows for metric in row.scores}
    return tuple(metric for metric in (TASK_COLUMNS[task] if task else METRICS) if metric in scored)


def mean_rows(rows: Mapping[str, Mapping[str, float]], means: Mapping[str, Sequence[str]] = MEANS) -> dict[str, dict]:
    """For each of ``means`` the mean of its sets' rows, metric by metric; none if one of its sets has no row."""
    complete = {name: [rows[s] for s in sets] for name, sets in means.items() if all(s in rows for s in sets)}
    return {
        name: {metric: float(np.mean([row[metric] for row in group])) for metric in group[0]}
        for name, group in complete.items()
    }


def in_table_order(names: Sequence[str]) -> list[str]:
    """Names of sets: those of the benchmarks first, in their order, then the mean rows, then others as they come."""
    known = [name for task in TEST_SETS.values() for name in (*task, *_means_of(task))]
    return [name for name in known if name in names] + [name for name in dict.fromkeys(names) if name not in known]


def to_markdown(rows: Sequence[TableRow], columns: Sequence[str], heading: str = 'set') -> str:
    """A Markdown table; arrows say which way is better."""
    arrows = [f'{metric} {"↓" if metric.rpartition("/")[2] in LOWER_IS_BETTER else "↑"}' for metric in columns]
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
    """A LaTeX ``tabular`` that needs no package; notes are comments behind their rows."""
    arrows = [_LATEX[metric] + (r'$\downarrow$' if metric in LOWER_IS_BETTER else r'$\uparrow$') for metric in columns]
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
    return f'{value:.0f}' if metric.endswith('HCE') else f'{value:.3f}'


def _escape(text: str) -> str:
    return ''.join('\\' + character if character in '&%$#_{}' else character for character in text)
