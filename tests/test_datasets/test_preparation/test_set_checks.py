"""Every kind of fault, planted once, is reported, and nothing else."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tool_module import load_tool

from mmbirefnet.datasets.preparation.check import PROBLEMS, check_sets
from mmbirefnet.datasets.preparation.find_sets import FAMILIES, PUBLISHED_SIZES, find_sets

TOOL = Path(__file__).parents[3] / 'tools/dataset_converters/check_dataset.py'


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


@pytest.fixture
def clean(tmp_path, write_pair):
    """Two sets; masks as RGB, 16 bits and in a sub-folder, which are no faults."""
    root = tmp_path / 'data'
    gray = np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))
    for name in ('A', 'B/C'):
        for stem in ('1', '2', 'sub/1'):
            write_pair(root / name, stem, image=cv2.randu(np.empty((24, 32, 3), np.uint8), 0, 256))
        write_pair(
            root / name, 'rgb', mask=cv2.merge([gray] * 3), image=cv2.randu(np.empty((24, 32, 3), np.uint8), 0, 256)
        )
        write_pair(
            root / name,
            '16',
            mask=gray.astype(np.uint16) * 257,
            image=cv2.randu(np.empty((24, 32, 3), np.uint8), 0, 256),
        )
    return root


@pytest.fixture
def faulty(clean, write_pair):
    """The same with every fault once; the expected problems, (kind, path)."""
    a, rng = clean / 'A', np.random.default_rng(1)
    expected = []

    def pair(stem, image=None, mask=None):
        image = rng.integers(0, 256, (24, 32, 3), np.uint8) if image is None else image
        return write_pair(a, stem, image, mask)

    def fault(kind, path):
        expected.append((kind, str(path)))

    image, mask = pair('no mask')
    mask.unlink()
    fault('no-mask', image)
    image, mask = pair('no image')
    image.unlink()
    fault('no-image', mask)
    image, _ = pair('twice')
    cv2.imwrite(str(image.with_suffix('.png')), cv2.imread(str(image)))
    fault('same-stem', image.with_suffix('.png'))
    (a / 'im/Thumbs.db').write_text('x')
    fault('other-file', a / 'im/Thumbs.db')
    image, mask = pair('cut')
    cut(image), cut(mask)
    fault('unreadable', image), fault('unreadable', mask)
    image, mask = pair('nothing')
    image.write_bytes(b''), mask.write_text('no image')
    fault('unreadable', image), fault('unreadable', mask)
    _, mask = pair('color', mask=rng.integers(0, 256, (24, 32, 3), np.uint8))
    fault('not-a-mask', mask)
    _, mask = pair('ids', mask=np.eye(24, 32, dtype=np.uint8))
    fault('not-a-mask', mask)
    _, mask = pair('alpha')
    Image.fromarray(rng.integers(0, 256, (24, 32, 4), np.uint8).repeat(1, 0)[..., [0, 0, 0, 3]]).save(mask)
    fault('not-a-mask', mask)
    _, mask = pair('turned', mask=rng.integers(0, 256, (32, 24), np.uint8))
    fault('size', mask)
    _, mask = pair('empty', mask=np.zeros((24, 32), np.uint8))
    fault('empty-mask', mask)
    copied = cv2.imread(str(a / 'im/1.jpg'))
    cv2.imwrite(str(clean / 'B/C/im/copy.png'), copied)
    cv2.imwrite(str(clean / 'B/C/gt/copy.png'), np.full(copied.shape[:2], 255, np.uint8))
    fault('duplicate', clean / 'B/C/im/copy.png')
    return clean, expected


def problems_of(reports):
    return sorted((problem.kind, problem.path) for report in reports.values() for problem in report.problems)


def test_clean_sets_have_no_problems(clean):
    reports = check_sets(str(clean), processes=2)
    assert {name: (report.images, report.masks) for name, report in reports.items()} == {'A': (5, 5), 'C': (5, 5)}
    assert problems_of(reports) == []


def test_each_fault_is_reported_and_nothing_else(faulty):
    root, expected = faulty
    reports = check_sets(str(root), processes=2)
    assert problems_of(reports) == sorted(expected)
    by_path = {problem.path: problem.detail for report in reports.values() for problem in report.problems}
    assert '24x32, its image 32x24' in by_path[str(root / 'A/gt/turned.png')]
    assert 'A/im/1.jpg' in by_path[str(root / 'B/C/im/copy.png')]
    assert 'class ids' in by_path[str(root / 'A/gt/ids.png')]


def test_counts_and_missing_sets(clean):
    (clean / 'A').rename(clean / 'CHAMELEON')
    (clean / 'DIS5K/DIS-VD/im').mkdir(parents=True)
    reports = check_sets(str(clean), ['CHAMELEON', 'DIS-VD', 'NC4K'], processes=1)
    kinds = {name: dict(report.kinds()) for name, report in reports.items()}
    assert kinds == {'CHAMELEON': {'count': 1}, 'DIS-VD': {'missing-set': 2}, 'NC4K': {'missing-set': 1}}
    assert reports['CHAMELEON'].problems[0].detail == '5 images, published: 76'


def test_find_sets(clean):
    (clean / 'D/A/gt').mkdir(parents=True)
    assert find_sets(str(clean)) == {'A': 'A', 'C': 'B/C', 'D/A': 'D/A'}
    assert find_sets(str(clean / 'A')) == {'A': ''}
    assert set(find_sets(str(clean), ['DIS5K'])) == set(FAMILIES['DIS5K'])
    with pytest.raises(FileNotFoundError, match='no folder with im/ or gt/'):
        find_sets(str(clean / 'A/im'))


def test_published_sizes():
    """Zheng et al., 2024, Sec. 4.1, and the data sets' own papers."""
    assert sum(FAMILIES['DIS5K'].values()) == 5470
    assert PUBLISHED_SIZES['TR-COD10K'] + PUBLISHED_SIZES['TE-COD10K'] == 5066
    assert PUBLISHED_SIZES['TR-DUTS'] + PUBLISHED_SIZES['TE-DUTS'] == 15572
    assert PUBLISHED_SIZES['TR-UHRSD'] + PUBLISHED_SIZES['TE-UHRSD'] == 5920


def test_tool(faulty, capsys):
    root, expected = faulty
    module = load_tool(TOOL)
    with pytest.raises(SystemExit) as exit_info:
        module.main([str(root), '--processes', '1'])
    lines = capsys.readouterr().out.splitlines()
    assert exit_info.value.code == 1
    assert len(lines) == len(expected) + 2
    assert all(any(line.startswith(f'{path}: {kind}: ') for line in lines) for kind, path in expected)
    assert lines[-1] == 'C: 6 images, 6 masks: 1 duplicate'

    with pytest.raises(SystemExit) as exit_info:
        module.main([str(root), '--json', '--processes', '1', '--allow', *PROBLEMS])
    assert exit_info.value.code == 0
    assert json.loads(capsys.readouterr().out)['problems'] == []
    with pytest.raises(SystemExit):
        module.main([str(root), '--json', '--processes', '1'])
    printed = json.loads(capsys.readouterr().out)
    assert sorted((problem['kind'], problem['path']) for problem in printed['problems']) == sorted(expected)
    assert printed['sets']['C']['problems'] == {'duplicate': 1}
