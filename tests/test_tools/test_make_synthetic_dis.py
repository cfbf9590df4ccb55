import runpy
from pathlib import Path

import cv2
import pytest

SCRIPT = Path(__file__).parents[2] / 'tools/dataset_converters/make_synthetic_dis.py'


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(SCRIPT))['main']


def test_command_line(main, tmp_path, capsys):
    arguments = [str(tmp_path / 'a'), '--dis-tr', '2', '--dis-vd', '0', '--dis-te4', '1']
    main([*arguments, '--size', '40', '56', '--seed', '7'])
    assert 'DIS-TR 2, DIS-TE4 1' in capsys.readouterr().out
    names = sorted(str(path.relative_to(tmp_path / 'a')) for path in (tmp_path / 'a').rglob('*.*'))
    assert names == [
        'DIS-TE4/gt/12#Synthetic#1#Wheel#000001.png',
        'DIS-TE4/im/12#Synthetic#1#Wheel#000001.jpg',
        'DIS-TR/gt/12#Synthetic#1#Wheel#000001.png',
        'DIS-TR/gt/12#Synthetic#2#Fence#000002.png',
        'DIS-TR/im/12#Synthetic#1#Wheel#000001.jpg',
        'DIS-TR/im/12#Synthetic#2#Fence#000002.jpg',
    ]
    assert cv2.imread(str(tmp_path / 'a' / names[0]), cv2.IMREAD_UNCHANGED).shape == (40, 56)

    with pytest.raises(SystemExit, match='error: .*DIS-TR.*--overwrite'):
        main(arguments)
    before = (tmp_path / 'a' / names[0]).read_bytes()
    main([*arguments, '--size', '40', '56', '--seed', '8', '--overwrite'])
    assert (tmp_path / 'a' / names[0]).read_bytes() != before


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--dis-tr', '-1'], 'must be 0 or greater'),
        (['--size', '0'], 'must be 1 or greater'),
        (['--size', '1', '2', '3'], 'one or two numbers'),
        (['--dis-tr', '0', '--dis-vd', '0'], 'nothing to generate'),
    ],
)
def test_wrong_options(main, tmp_path, capsys, arguments, told):
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'a'), *arguments])
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()
