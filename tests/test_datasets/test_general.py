import pytest

from mmbirefnet.datasets import GeneralDataset


def test_sets_are_found_in_every_familys_folder(tmp_path, write_pair):
    places = {'TR-HRS10K': '', 'TR-humans': 'General', 'DIS-TR': 'DIS5K', 'TE-DUTS': 'HRSOD', 'TR-P3M-10k': 'Matting'}
    images = [write_pair(tmp_path / family / name, 'a')[0] for name, family in places.items()]
    dataset = GeneralDataset(data_root=str(tmp_path), sets=list(places))
    assert [item['img_path'] for item in dataset] == [str(image) for image in images]
    assert dataset.metainfo['sets'] == tuple(places)


def test_folder_of_the_task_goes_before_the_familys(tmp_path, write_pair):
    write_pair(tmp_path / 'DIS5K/DIS-VD', 'a')
    nearer, _ = write_pair(tmp_path / 'General/DIS-VD', 'a')
    assert GeneralDataset(data_root=str(tmp_path), sets='DIS-VD')[0]['img_path'] == str(nearer)


def test_set_of_a_path_of_its_own(tmp_path, write_pair):
    image, _ = write_pair(tmp_path / 'elsewhere/mine', 'a')
    dataset = GeneralDataset(data_root=str(tmp_path / 'data'), sets=[str(tmp_path / 'elsewhere/mine')])
    assert (dataset[0]['img_path'], dataset[0]['set_name']) == (str(image), 'mine')


def test_missing_set_is_named_with_all_places(tmp_path, write_pair):
    write_pair(tmp_path / 'DIS-TR', 'a')
    with pytest.raises(FileNotFoundError) as caught:
        GeneralDataset(data_root=str(tmp_path), sets=['DIS-TR', 'TR-UHRSD'])
    for place in ('TR-UHRSD/im', 'General/TR-UHRSD/im', 'HRSOD/TR-UHRSD/im', 'Matting/TR-UHRSD/im'):
        assert str(tmp_path / place) in str(caught.value)
    assert 'DIS-TR/im' not in str(caught.value)
