import pytest

from mmbirefnet.datasets import DIS5K_CLASSES, DIS5KDataset


def test_class_list():
    assert len(DIS5K_CLASSES) == len(set(DIS5K_CLASSES)) == 219
    assert list(DIS5K_CLASSES) == sorted(DIS5K_CLASSES)
    assert (DIS5K_CLASSES[0], DIS5K_CLASSES[-1]) == ('Airplane', 'Yacht')


@pytest.mark.parametrize(
    ('stem', 'class_name', 'class_label'),
    [
        ('2#Aircraft#7#UAV#3522858070_8f2ae8a8f2_o', 'UAV', 200),
        ('2#Aircraft#1#Airplane#a#b', 'Airplane', 0),
        ('7#Animal#1#Tiger#animal-1', 'Tiger', -1),
        ('8#Vehicle#1#Car#car-2', 'Car', 32),
        ('photo', None, -1),
        ('8#Vehicle#1#Car', 'Car', 32),
        ('8#Vehicle#Car', None, -1),
    ],
)
def test_stem_tells_the_class(tmp_path, write_pair, stem, class_name, class_label):
    write_pair(tmp_path / 'DIS-TR', stem)
    info = DIS5KDataset(data_root=str(tmp_path), sets='DIS-TR').get_data_info(0)
    assert (info['class_name'], info['class_label']) == (class_name, class_label)
    if class_label >= 0:
        assert DIS5K_CLASSES[class_label] == class_name


def test_own_class_names(tmp_path, write_pair):
    write_pair(tmp_path, '1#Zoo#1#Tiger#x')
    write_pair(tmp_path, '1#Zoo#2#Car#x')
    dataset = DIS5KDataset(data_root=str(tmp_path), class_names=['Lion', 'Tiger'])
    assert [dataset.get_data_info(i)['class_label'] for i in range(2)] == [1, -1]
    with pytest.raises(ValueError, match='class_names'):
        DIS5KDataset(data_root=str(tmp_path), class_names=['Lion', 'Lion'])


def test_published_sizes():
    assert DIS5KDataset.SET_SIZES == {
        'DIS-TR': 3000, 'DIS-VD': 470, 'DIS-TE1': 500, 'DIS-TE2': 500, 'DIS-TE3': 500, 'DIS-TE4': 500,
    }  # fmt: skip
