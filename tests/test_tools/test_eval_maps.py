"""Scoring saved maps, and the contact sheet, by command line."""

import csv
import json
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmbirefnet.datasets.transforms.decode import read_map

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'data' / 'metrics'
EXPECTED = json.loads((GOLDEN / 'expected.json').read_text())
PAIRS = [f'pair{k}' for k in range(6)]


@pytest.fixture
def tool(monkeypatch):
    def run(name, *arguments):
        monkeypatch.setattr('sys.argv', [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / f'tools/analysis_tools/{name}.py'))['main']()

    return run


@pytest.fixture
def folders(tmp_path):
    """The golden pairs under DIS5K names, as DIS-VD (four) and DIS-TE1 (two), with maps of two methods."""
    for index, name in enumerate(PAIRS):
        set_name, stem = 'DIS-VD' if index < 4 else 'DIS-TE1', f'1#G{index % 2}#1#C{index}#{name}'
        mask = cv2.imread(str(GOLDEN / 'gt' / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
        score_map = cv2.imread(str(GOLDEN / 'pred' / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
        for path, image in (
            (tmp_path / set_name / 'im' / f'{stem}.jpg', cv2.merge([mask // 2] * 3)),
            (tmp_path / set_name / 'gt' / f'{stem}.png', mask),
            (tmp_path / 'ours' / set_name / f'{stem}.png', score_map),
            (tmp_path / 'inverse' / set_name / f'{stem}.png', 255 - score_map),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return tmp_path


def read_table(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_scores_tables_and_figures(tool, folders):
    out = folders / 'out'
    tool(
        'eval_maps', '--gt', folders / 'DIS-VD', folders / 'DIS-TE1', '--pred', folders / 'ours',
        f'other={folders / "inverse"}', '--out', out, '--worst', 2, '--worst-by', 'HCE', '--workers', 1,
    )  # fmt: skip
    table = read_table(out / 'table.csv')
    assert [(row['set'], row['method']) for row in table] == [
        ('DIS-VD', 'ours'), ('DIS-VD', 'other'), ('DIS-TE1', 'ours'), ('DIS-TE1', 'other'),
    ]  # fmt: skip
    assert list(table[0])[2:8] == ['maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE']
    images = {row['image']: row for row in read_table(out / 'images.csv') if row['method'] == 'ours'}
    for index, name in enumerate(PAIRS):
        row = images[f'{"DIS-VD" if index < 4 else "DIS-TE1"}/1#G{index % 2}#1#C{index}#{name}']
        for metric, value in EXPECTED[name].items():
            assert float(row[metric]) == pytest.approx(value, abs=1e-6), metric
    assert float(table[2]['HCE']) == np.mean([EXPECTED[name]['HCE'] for name in ('pair4', 'pair5')])
    assert [row['class'] for row in read_table(out / 'classes.csv')][::2] == [f'C{k}' for k in range(6)]
    groups = [row for row in read_table(out / 'groups.csv') if row['method'] == 'ours']
    assert [(row['group'], row['note']) for row in groups] == [('G0', '3 images'), ('G1', '3 images')]
    assert float(groups[0]['HCE']) == np.mean([EXPECTED[f'pair{k}']['HCE'] for k in (0, 2, 4)])
    for name in ('curves_DIS-VD.png', 'curves_DIS-TE1.png', 'worst_ours_DIS-VD.jpg', 'worst_other_DIS-TE1.jpg'):
        assert cv2.imread(str(out / name)).std() > 10


def test_soft_masks_change_the_mean_errors_alone(tool, tmp_path):
    alpha = np.tile(np.arange(0, 250, 10, np.uint8), (20, 1))
    score_map = alpha // 2
    for name, image in (('gt', alpha), ('maps', score_map)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), image)
    rows = []
    for out, options in (('hard', []), ('soft', ['--soft-masks'])):
        tool('eval_maps', '--gt', tmp_path / 'gt', '--pred', tmp_path / 'maps', '--out', tmp_path / out, '--workers', 1,
             '--worst', 0, *options)  # fmt: skip
        rows.append(read_table(tmp_path / out / 'images.csv')[0])
    hard, soft = rows
    difference = (alpha / 255.0) - (score_map / 255.0)
    assert float(soft['MAE']) == pytest.approx(np.abs(difference).mean(), abs=1e-6)
    assert float(soft['MSE']) == pytest.approx(np.square(difference).mean(), abs=1e-6)
    assert {name for name in hard if hard[name] != soft[name]} == {'MAE', 'MSE'}
    assert soft.keys() - hard.keys() == {'SAD', 'Grad', 'Conn'}


def test_weak_maps_are_forgiven_by_the_stretched_hce_alone(tool, tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    for name, image in (('gt', mask), ('maps', mask // 4)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), image)
    options = '--gt', tmp_path / 'gt', '--pred', tmp_path / 'maps', '--measures', 'HCE', '--worst', 0, '--workers', 0
    for stretch in ([], ['--stretch-hce']):
        tool('eval_maps', *options, '--out', tmp_path / 'out', *stretch)
        effort = float(read_table(tmp_path / 'out' / 'table.csv')[0]['HCE'])
        assert (effort == 0) == bool(stretch)


def test_missing_and_damaged_maps_are_named(tool, folders, capsys):
    maps = sorted((folders / 'ours' / 'DIS-VD').iterdir())
    maps[0].unlink()
    maps[1].write_bytes(maps[1].read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        tool(
            'eval_maps', '--gt', folders / 'DIS-VD' / 'gt', '--pred', folders / 'ours', '--out', folders / 'out',
            '--measures', 'MAE', '--worst', 0, '--workers', 1,
        )  # fmt: skip
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert f'missing: {maps[0]}' in printed.err
    assert f'unreadable: {maps[1]}' in printed.err
    (row,) = read_table(folders / 'out' / 'table.csv')
    assert row['note'] == '2 of 4 images'
    assert float(row['MAE']) == pytest.approx(np.mean([EXPECTED[f'pair{k}']['MAE'] for k in (1, 3)]))


def test_maps_of_another_size_are_resized(tool, folders):
    for path in (folders / 'ours' / 'DIS-TE1').iterdir():
        score_map = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), cv2.resize(score_map, None, fx=0.5, fy=0.7))
    tool(
        'eval_maps', '--gt', folders / 'DIS-TE1', '--pred', folders / 'ours' / 'DIS-TE1', '--out', folders / 'out',
        '--measures', 'MAE', '--worst', 0, '--workers', 0,
    )  # fmt: skip
    expected = []
    for path in sorted((folders / 'DIS-TE1' / 'gt').iterdir()):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 128
        score_map = cv2.imread(str(folders / 'ours' / 'DIS-TE1' / path.name), cv2.IMREAD_GRAYSCALE)
        score_map = cv2.resize(score_map, mask.shape[::-1]) / 255  # bilinear, in 8 bits
        score_map = (score_map - score_map.min()) / np.ptp(score_map)
        expected.append(np.abs(score_map - mask).mean())
    (row,) = read_table(folders / 'out' / 'table.csv')
    assert float(row['MAE']) == pytest.approx(np.mean(expected))


def test_published_rows_stand_beside(tool, folders, capsys):
    metafile = folders / 'metafile.yml'
    metafile.write_text(
        'Models:\n- Name: paper\n  Results:\n'
        '  - {Dataset: DIS-VD, Metrics: {Smeasure: 0.898}, Source: v1}\n'
        '  - {Dataset: DIS-TE4, Metrics: {Smeasure: 0.5}, Source: v1}\n'
    )
    tool(
        'eval_maps', '--gt', folders / 'DIS-VD', '--pred', folders / 'ours', '--out', folders / 'out', '--metrics',
        'Smeasure', '--worst', 0, '--workers', 0, '--published', metafile,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert '| DIS-VD | paper (published) | 0.898 | v1 |' in printed
    assert 'DIS-TE4' not in printed


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--measures', 'F1'], 'expected some of maxFm'),
        (['--measures', 'MAE', '--worst-by', 'HCE'], '--worst-by HCE'),
        (['--workers', '-2'], 'from 0 on, got -2'),
    ],
)
def test_bad_options(tool, folders, capsys, options, message):
    with pytest.raises(SystemExit, match='2'):
        tool('eval_maps', '--gt', folders / 'DIS-VD', '--pred', folders / 'ours', *options)
    assert message in capsys.readouterr().err


def test_no_masks(tool, folders):
    with pytest.raises(SystemExit, match='no folder .*nowhere'):
        tool('eval_maps', '--gt', folders / 'nowhere', '--pred', folders / 'ours', '--out', folders / 'out')


def test_contact_sheet(tool, folders, capsys):
    set_folder, sheet = folders / 'DIS-VD', folders / 'sheet.png'
    options = ['--gt', set_folder / 'gt', '--pred', folders / 'ours' / 'DIS-VD', '--out', sheet]
    tool('contact_sheet', '--images', set_folder / 'im', *options, '--count', 2, '--width', 50)
    assert '2 of 4 samples' in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape[1] == 3 * 50 + 2 * 4
    with pytest.raises(SystemExit, match='no image 1#G0#1#C0#pair0'):
        tool('contact_sheet', '--images', folders / 'DIS-TE1' / 'im', *options)
    with pytest.raises(SystemExit, match='stem of a mask'):
        tool('contact_sheet', '--gt', set_folder / 'gt', '--pred', folders / 'ours' / 'DIS-TE1', '--out', sheet)


@pytest.mark.soak
def test_benchmark_of_metrics(tool, capsys):
    tool('benchmark_metrics', '--pairs', 2, '--size', 90, 150, '--rounds', 1, '--workers', 1)
    printed = capsys.readouterr().out
    assert re.search(r'^ours +[0-9.]+ pairs/s', printed, re.M)
    assert '(14 measures)' in printed
    assert 'largest difference' in printed


def test_subfolders(tool, folders):
    """As test.py --out writes the maps of a set with sub-folders, where file names may repeat."""
    (masks,) = {path.parent for path in (folders / 'DIS-VD' / 'gt').iterdir()}
    for name, folder in (('masks', masks), ('maps', folders / 'ours' / 'DIS-VD')):
        for index, path in enumerate(sorted(folder.iterdir())):
            place = folders / name / f'part{index}' / 'same.png'
            place.parent.mkdir(parents=True)
            path.rename(place)
    out = folders / 'out'
    tool(
        'eval_maps', '--gt', folders / 'masks', '--pred', folders / 'maps', '--out', out, '--metrics', 'MAE',
        '--worst', 1, '--worst-by', 'MAE', '--workers', 1,
    )  # fmt: skip
    rows = {row['image']: float(row['MAE']) for row in read_table(out / 'images.csv')}
    # Sorted by their names, the golden pairs are 0, 2 (group G0), 1 and 3 (G1).
    for part, pair in enumerate((0, 2, 1, 3)):
        assert rows[f'masks/part{part}/same'] == pytest.approx(EXPECTED[f'pair{pair}']['MAE'], abs=1e-6)
    assert (out / 'worst_maps_masks.jpg').is_file()


@pytest.mark.parametrize('suffix', ['png', 'webp'])
@pytest.mark.soak(keep=1)
def test_cutouts_are_scored_by_their_alpha(tool, folders, suffix):
    rng = np.random.default_rng(0)
    expected, names = [], sorted((folders / 'ours' / 'DIS-VD').iterdir())
    for path in names:
        alpha = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        pixels = np.dstack([rng.integers(0, 256, (*alpha.shape, 3), np.uint8), alpha])
        path.unlink()
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == 'webp' else []
        cv2.imwrite(str(path.with_suffix(f'.{suffix}')), pixels, options)
        expected.append(EXPECTED[path.stem.rpartition('#')[2]]['wFmeasure'])
    tool(
        'eval_maps', '--gt', folders / 'DIS-VD', '--pred', folders / 'ours', '--out', folders / 'out',
        '--metrics', 'wFmeasure', '--worst', 0, '--workers', 1,
    )  # fmt: skip
    (row,) = read_table(folders / 'out' / 'table.csv')
    assert float(row['wFmeasure']) == pytest.approx(np.mean(expected), abs=1e-6)


def test_maps_with_alpha(tmp_path):
    """Alpha is the map of a cut-out, also where nothing or everything was cut out; not of a gray and opaque image."""
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    color = np.dstack([gray, gray // 2, gray])
    full = np.full_like(gray, 255)
    for pixels, wanted in (
        (np.dstack([gray, gray, gray, full]), gray),
        (np.dstack([color, full]), full),
        (np.dstack([color, 0 * full]), 0 * full),
        (np.dstack([gray, gray, gray, gray]), gray),
        (np.dstack([color, gray]).astype(np.uint16) * 257, gray),
        (gray, gray),
    ):
        cv2.imwrite(str(tmp_path / 'map.png'), pixels)
        np.testing.assert_array_equal(read_map(str(tmp_path / 'map.png')), wanted)
