"""Tables, published rows, ranking and the breakdown by class."""

import csv
import json

import numpy as np
import pytest

from mmbirefnet.evaluation import MEASURES
from mmbirefnet.evaluation.report import (
    TASK_COLUMNS,
    TEST_SETS,
    TableRow,
    columns_of,
    find_checkpoints,
    in_table_order,
    load_published,
    parse_dis5k_name,
    rank,
    read_logged_scores,
    rows_by,
    task_of,
    to_latex,
    to_markdown,
    with_means,
    write_tables,
)

SCORES = {metric: (index + 1) / 100 for index, metric in enumerate(MEASURES)} | {'HCE': 1016.4}


@pytest.mark.parametrize(
    ('sets', 'task'),
    [
        (['DIS-VD'], 'DIS5K'),
        (['DIS-TR', 'DIS-TE4', 'DIS-TE(1-4)'], 'DIS5K'),
        (['NC4K', 'CHAMELEON'], 'COD'),
        (['DAVIS-S', 'TE-DUTS'], 'HRSOD'),
        (['TE-P3M-500-P', 'TE-AM-2k'], 'Matting'),
        (['DIS-VD', 'NC4K'], None),
        (['mine'], None),
    ],
)
def test_task_by_sets(sets, task):
    assert task_of(sets) == task
    rows = [TableRow(name, 'm', SCORES) for name in sets]
    assert columns_of(rows) == (TASK_COLUMNS[task] if task else tuple(MEASURES))


def test_column_orders():
    # The papers' orders.
    assert ' '.join(TASK_COLUMNS['DIS5K']) == 'maxFm wFmeasure MAE Smeasure meanEm HCE'
    assert ' '.join(TASK_COLUMNS['COD']) == 'Smeasure wFmeasure meanFm meanEm maxEm MAE'
    assert ' '.join(TASK_COLUMNS['HRSOD']) == 'Smeasure maxFm meanEm MAE wFmeasure'  # the last by others
    assert [len(sets) for sets in TEST_SETS.values()] == [5, 4, 5, 3]
    with pytest.raises(ValueError, match='DIS5K, COD, HRSOD'):
        columns_of([], 'SOD')


def test_sets_in_order():
    names = ['other', 'DIS-TE(1-4)', 'DIS-TE2', 'DIS-VD', 'other', 'DIS-TE1']
    assert in_table_order(names) == ['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE(1-4)', 'other']


def test_with_means_adds_the_mean_of_complete_sets():
    rows = {f'DIS-TE{k}': dict(MAE=0.1 * k, HCE=float(k)) for k in range(1, 5)}
    assert with_means(rows) == rows | {'DIS-TE(1-4)': dict(MAE=pytest.approx(0.25), HCE=2.5)}
    del rows['DIS-TE3']
    assert with_means(rows) == rows


def test_tables_are_written_in_three_formats(tmp_path):
    rows = [TableRow('DIS-VD', 'a_b', SCORES), TableRow('DIS-TE1', 'a_b', {'MAE': 0.5}, 'not on disk')]
    paths = write_tables(rows, TASK_COLUMNS['DIS5K'], tmp_path / 'new' / 'table.v1')
    assert [path.name for path in paths] == ['table.v1.md', 'table.v1.csv', 'table.v1.tex']

    markdown = paths[0].read_text().splitlines()
    assert markdown[0] == '| set | method | maxFm ↑ | wFmeasure ↑ | MAE ↓ | Smeasure ↑ | meanEm ↑ | HCE ↓ | note |'
    assert markdown[2] == '| DIS-VD | a_b | 0.010 | 0.020 | 0.030 | 0.040 | 0.050 | 1016 |  |'
    assert markdown[3] == '| DIS-TE1 | a_b | – | – | 0.500 | – | – | – | not on disk |'

    with open(paths[1], newline='') as file:
        first, second = csv.DictReader(file)
    assert float(first['HCE']) == 1016.4
    assert (second['MAE'], second['HCE'], second['note']) == ('0.5', '', 'not on disk')

    latex = paths[2].read_text()
    assert r'DIS-VD & a\_b & 0.010 & 0.020 & 0.030 & 0.040 & 0.050 & 1016 \\' in latex
    assert latex.count(' & ') == 3 * 7
    assert latex.startswith(r'\begin{tabular}{llrrrrrr}')


def test_no_note_column_without_notes():
    assert 'note' not in to_markdown([TableRow('a', 'b', SCORES)], ['MAE'])
    assert '%' not in to_latex([TableRow('a', 'b', SCORES)], ['MAE'])


def test_published_rows_need_source_and_known_metrics(tmp_path):
    path = tmp_path / 'metafile.yml'
    content = 'Models:\n- Name: m\n  Results:\n  - {{Dataset: DIS-VD, Metrics: {{{}: 0.9}}{}}}\n'
    path.write_text(content.format('Smeasure', ', Source: paper'))
    assert load_published(path) == [TableRow('DIS-VD', 'm', {'Smeasure': 0.9}, 'paper')]
    for metric, source, message in (('Smeasure', '', 'no Source'), ('S', ', Source: x', 'unknown measures S')):
        path.write_text(content.format(metric, source))
        with pytest.raises(ValueError, match=f'metafile.yml: m on DIS-VD: {message}'):
            load_published(path)


def test_published_rows_of_a_config(tmp_path):
    path = tmp_path / 'metafile.yml'
    model = '- Name: {0}\n  Config: a/{1}.py\n  Results:\n  - {{Dataset: d, Metrics: {{MAE: {2}}}, Source: s}}\n'
    rows = [('R1', 'one', 0.1), ('R2', 'two', 0.2), ('R3', 'one', 0.3)]
    path.write_text('Models:\n- Name: one\n  Config: a/one.py\n' + ''.join(model.format(*row) for row in rows))
    assert [(row.method, row.scores['MAE']) for row in load_published(path, 'one')] == [('R1', 0.1), ('R3', 0.3)]
    assert load_published(path, 'three') == []


def test_breakdown_by_names():
    assert parse_dis5k_name('2#Aircraft#7#UAV#3522858070_8f2#o') == ('Aircraft', 'UAV')
    assert parse_dis5k_name('girl-2') is None
    scores = {f'{k}#G{k // 2}#1#C{k}#x': {'MAE': 0.1 * k, 'Fm': np.full(256, 0.5)} for k in range(3)}
    by_group = rows_by('group', 'm', {**scores, 'girl': {'MAE': 9.0}})
    assert [(row.name, row.scores['MAE'], row.note) for row in by_group] == [
        ('G0', pytest.approx(0.05), '2 images'),
        ('G1', pytest.approx(0.2), '1 images'),
    ]
    assert by_group[0].scores['maxFm'] == 0.5
    assert [row.name for row in rows_by('class_name', 'm', scores)] == ['C0', 'C1', 'C2']


def test_rank_by_one_and_several_metrics():
    scores = {
        5: dict(wFmeasure=0.80, HCE=900.0, MAE=0.05),
        10: dict(wFmeasure=0.85, HCE=990.0, MAE=0.04),
        15: dict(wFmeasure=0.84, HCE=950.0, MAE=0.04),
        20: dict(wFmeasure=0.90),
    }
    assert rank(scores, ['wFmeasure']) == [20, 10, 15, 5]
    assert rank(scores, ['HCE']) == [5, 15, 10]
    # Ranks (0-based) of 5, 10, 15 on wFmeasure 2, 0, 1, on HCE 0, 2, 1, on MAE 2, 0, 0: means 4/3, 2/3, 2/3.
    assert rank(scores, ['wFmeasure', 'HCE', 'MAE']) == [10, 15, 5]
    assert rank({1: {'DIS-VD/HCE': 2.0}, 2: {'DIS-VD/HCE': 1.0}}, ['DIS-VD/HCE']) == [2, 1]
    with pytest.raises(ValueError, match='mIoU'):
        rank(scores, ['mIoU'])


def test_checkpoints_and_logged_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match='epoch_'):
        find_checkpoints(tmp_path)
    for name in ('epoch_5.pth', 'epoch_10.pth', 'best_wFmeasure_epoch_10.pth', 'best_HCE_epoch_7.pth', 'other.pth'):
        (tmp_path / name).touch()
    found = find_checkpoints(tmp_path)
    assert {step: path.name for step, path in found.items()} == {
        5: 'epoch_5.pth',
        7: 'best_HCE_epoch_7.pth',
        10: 'epoch_10.pth',
    }
    for run, lines in (
        ('20260101_000000', [{'lr': 1e-4, 'loss': 1.0, 'step': 5}, {'HCE': 3.0, 'MAE': 0.2, 'time': 1.0, 'step': 5}]),
        ('20260102_000000', [{'HCE': 2.0, 'step': 5}, {'DIS-VD/HCE': 1.0, 'step': 10}]),
    ):
        folder = tmp_path / run / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    assert read_logged_scores(tmp_path) == {5: {'HCE': 2.0, 'MAE': 0.2}, 10: {'DIS-VD/HCE': 1.0}}
