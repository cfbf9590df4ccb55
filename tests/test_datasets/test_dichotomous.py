from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import ExifTags, Image

from mmbirefnet.datasets import (
    CODDataset,
    DichotomousDataset,
    DIS5KDataset,
    HRSODDataset,
    MattingDataset,
    dichotomous,
)
from mmbirefnet.datasets.transforms.decode import read_image, read_image_size


def stems(dataset):
    return [dataset.get_data_info(i)['img_path'].rsplit('/', 1)[1].rsplit('.', 1)[0] for i in range(len(dataset))]


def test_items_of_joined_sets_come_set_by_set(tmp_path, write_pair):
    for set_name, names in (('B', ('y', 'x')), ('A', ('z',))):
        for name in names:
            write_pair(tmp_path / set_name, name)
    dataset = DichotomousDataset(data_root=str(tmp_path), sets=['B', 'A'])
    assert stems(dataset) == ['x', 'y', 'z']
    first = dataset.get_data_info(0)
    assert first.pop('sample_idx') == 0
    assert first == {
        'img_path': str(tmp_path / 'B/im/x.jpg'),
        'seg_map_path': str(tmp_path / 'B/gt/x.png'),
        'set_name': 'B',
        'class_name': None,
        'class_label': -1,
        'label_map': None,
        'reduce_zero_label': False,
        'seg_fields': [],
    }
    assert [dataset.get_data_info(i)['set_name'] for i in range(3)] == ['B', 'B', 'A']
    assert dataset.metainfo['classes'] == ('background', 'foreground')
    assert dataset.metainfo['palette'] == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ('dataset_type', 'family'),
    [(DIS5KDataset, 'DIS5K'), (CODDataset, 'COD'), (HRSODDataset, 'HRSOD'), (MattingDataset, 'Matting')],
)
def test_sets_are_found_below_their_family(tmp_path, write_pair, dataset_type, family):
    image, mask = write_pair(tmp_path / family / 'S', 'a')
    built = DATASETS.build({'type': f'mmbirefnet.{dataset_type.__name__}', 'data_root': str(tmp_path), 'sets': 'S'})
    assert type(built) is dataset_type
    assert (built.get_data_info(0)['img_path'], built.get_data_info(0)['seg_map_path']) == (str(image), str(mask))
    nearer, _ = write_pair(tmp_path / 'S', 'a')
    assert dataset_type(data_root=str(tmp_path), sets='S').get_data_info(0)['img_path'] == str(nearer)


def test_data_root_alone_is_one_set(tmp_path, write_pair):
    write_pair(tmp_path / 'mine', 'a')
    info = DichotomousDataset(data_root=str(tmp_path / 'mine')).get_data_info(0)
    assert info['set_name'] == 'mine'


@pytest.mark.parametrize('image_suffix', ['.jpg', '.JPEG', '.PNG', '.bmp', '.Tif', '.webp'])
def test_suffixes_match_in_any_case(tmp_path, write_pair, image_suffix):
    _, mask = write_pair(tmp_path, 'a.b#1', image_suffix=image_suffix, mask_suffix='.PNG')
    assert DichotomousDataset(data_root=str(tmp_path)).get_data_info(0)['seg_map_path'] == str(mask)


def test_own_folder_names_suffixes_and_subfolders(tmp_path, write_pair):
    image, mask = write_pair(tmp_path, 'sub/a', mask_suffix='_mask.png')
    image.parent.parent.rename(tmp_path / 'images')
    dataset = DichotomousDataset(
        data_root=str(tmp_path), data_prefix={'img_path': 'images'}, seg_map_suffix='_mask.png'
    )
    info = dataset.get_data_info(0)
    assert (info['img_path'], info['seg_map_path']) == (str(tmp_path / 'images/sub/a.jpg'), str(mask))


class TestBadFolders:
    def error(self, tmp_path, error, dataset_type=DichotomousDataset, **kwargs):
        with pytest.raises(error) as caught:
            dataset_type(data_root=str(tmp_path), **kwargs)
        return str(caught.value)

    def test_image_without_mask(self, tmp_path, write_pair):
        write_pair(tmp_path, 'a')
        image, mask = write_pair(tmp_path, 'b')
        mask.unlink()
        assert self.error(tmp_path, FileNotFoundError) == f'no mask for 1 image: {image}'

    def test_mask_without_image(self, tmp_path, write_pair):
        write_pair(tmp_path, 'a')
        image, mask = write_pair(tmp_path, 'b')
        image.unlink()
        assert self.error(tmp_path, FileNotFoundError) == f'no image for 1 mask: {mask}'

    def test_masks_of_another_set_do_not_count(self, tmp_path, write_pair):
        write_pair(tmp_path / 'A', 'a')
        write_pair(tmp_path / 'B', 'a')[1].unlink()
        write_pair(tmp_path / 'B', 'b')
        assert str(tmp_path / 'B/im/a.jpg') in self.error(tmp_path, FileNotFoundError, sets=['A', 'B'])

    @pytest.mark.parametrize('folder', ['im', 'gt'])
    def test_two_files_of_one_stem(self, tmp_path, write_pair, folder):
        write_pair(tmp_path, 'a')
        first = next((tmp_path / folder).iterdir())
        second = first.with_suffix('.bmp')
        second.write_bytes(first.read_bytes())
        message = self.error(tmp_path, ValueError)
        assert 'two files with one stem' in message
        assert str(first) in message
        assert str(second) in message

    @pytest.mark.parametrize('folder', ['im', 'gt'])
    def test_empty_folder(self, tmp_path, write_pair, folder):
        for path in write_pair(tmp_path, 'a'):
            if path.parent.name == folder:
                path.rename(path.with_suffix('.txt'))
        assert self.error(tmp_path, ValueError).startswith(f'{tmp_path / folder}: no file that ends with')

    def test_missing_set_lists_the_places_and_the_known_sets(self, tmp_path):
        message = self.error(tmp_path, FileNotFoundError, DIS5KDataset, sets='DIS-TE9')
        assert f'{tmp_path}/DIS-TE9/im or {tmp_path}/DIS5K/DIS-TE9/im' in message
        assert 'DIS-TE4' in message

    def test_missing_sets_may_be_skipped_but_not_all(self, tmp_path, write_pair):
        write_pair(tmp_path / 'DIS-TE2', 'a')
        options = dict(skip_missing_sets=True, test_mode=True, pipeline=[])
        dataset = DIS5KDataset(data_root=str(tmp_path), sets=['DIS-VD', 'DIS-TE2'], **options)
        assert stems(dataset) == ['a']
        assert dataset.missing_sets == ['DIS-VD']
        assert dataset.metainfo['sets'] == ('DIS-TE2',)
        message = self.error(tmp_path, FileNotFoundError, DIS5KDataset, sets=['DIS-VD', 'DIS-TE1'], **options)
        assert f'{tmp_path}/DIS-VD/im' in message
        assert f'{tmp_path}/DIS-TE1/im' in message

    def test_missing_masks(self, tmp_path, write_pair):
        mask = write_pair(tmp_path, 'a')[1]
        mask.unlink()
        mask.parent.rmdir()
        message = self.error(tmp_path, FileNotFoundError)
        assert str(tmp_path / 'gt') in message
        assert 'with_masks=False' in message

    @pytest.mark.parametrize(
        ('kwargs', 'told'),
        [
            ({'sets': ['A', 'A']}, 'listed twice'),
            ({'with_masks': False}, 'test_mode'),
            ({'sets': []}, 'names of sets'),
            ({'reduce_zero_label': True}, 'reduce_zero_label'),
            ({'metainfo': {'classes': ('foreground',)}}, 'not class ids'),
        ],
    )
    def test_options(self, tmp_path, write_pair, kwargs, told):
        write_pair(tmp_path, 'a')
        assert told in self.error(tmp_path, ValueError, **kwargs)

    def test_neither_root_nor_sets(self):
        with pytest.raises(ValueError, match='data_root'):
            DichotomousDataset()


def test_images_alone_by_an_explicit_option(tmp_path, write_pair):
    image, mask = write_pair(tmp_path, 'a')
    mask.unlink()
    dataset = DichotomousDataset(data_root=str(tmp_path), test_mode=True, with_masks=False)
    assert dataset.get_data_info(0)['img_path'] == str(image)
    assert 'seg_map_path' not in dataset.get_data_info(0)


class TestHabitsOfBaseDataset:
    @pytest.fixture
    def root(self, tmp_path, write_pair):
        for set_name, names in (('A', 'abc'), ('B', 'cd')):
            for name in names:
                write_pair(tmp_path / set_name, name)
        return tmp_path

    def test_ann_file_selects_in_its_order(self, root):
        (root / 'list.txt').write_text('d\nA/c\n\nB/c\n a\n')
        dataset = DichotomousDataset(data_root=str(root), sets=['A', 'B'], ann_file='list.txt')
        assert stems(dataset) == ['d', 'c', 'c', 'a']
        assert [dataset.get_data_info(i)['set_name'] for i in range(4)] == ['B', 'A', 'B', 'A']

    def test_ann_file_needs_masks_of_its_own_images_only(self, root):
        (root / 'A/gt/b.png').unlink()
        (root / 'list.txt').write_text('a\n')
        assert len(DichotomousDataset(data_root=str(root), sets='A', ann_file='list.txt')) == 1
        (root / 'list.txt').write_text('a\nb\n')
        with pytest.raises(FileNotFoundError, match='A/im/b.jpg'):
            DichotomousDataset(data_root=str(root), sets='A', ann_file='list.txt')

    @pytest.mark.parametrize('line', ['nowhere', 'c', 'a.jpg', ''])
    def test_ann_file_with_a_wrong_line(self, root, line):
        (root / 'list.txt').write_text(line)
        with pytest.raises(ValueError, match=f'list.txt.*{line}'):
            DichotomousDataset(data_root=str(root), sets=['A', 'B'], ann_file='list.txt')

    def test_missing_ann_file(self, root):
        with pytest.raises(FileNotFoundError, match='gone.txt'):
            DichotomousDataset(data_root=str(root), sets='A', ann_file='gone.txt')

    @pytest.mark.parametrize(('indices', 'expected'), [(2, ['a', 'b']), (-1, ['c']), ([2, 0], ['c', 'a'])])
    @pytest.mark.parametrize('serialize_data', [True, False])
    def test_indices_select_samples(self, root, indices, expected, serialize_data):
        dataset = DichotomousDataset(data_root=str(root), sets='A', indices=indices, serialize_data=serialize_data)
        assert stems(dataset) == expected

    def test_lazy_init_reads_the_folders_later(self, root):
        dataset = DichotomousDataset(data_root=str(root / 'later'), lazy_init=True)
        assert dataset.metainfo['classes'] == ('background', 'foreground')
        (root / 'A').rename(root / 'later')
        dataset.full_init()
        assert len(dataset) == 3

    def test_max_refetch_takes_another_item_for_none(self, root):
        def only_c(results):
            return results if results['img_path'].endswith('c.jpg') else None

        dataset = DichotomousDataset(data_root=str(root), sets='A', pipeline=[only_c])
        assert dataset[0]['img_path'].endswith('c.jpg')
        with pytest.raises(Exception, match='max refetch|find valid image'):
            DichotomousDataset(data_root=str(root), sets='A', indices=1, max_refetch=2, pipeline=[only_c])[0]


@pytest.fixture
def sizes(tmp_path, write_pair):
    """A set of images by size, width x height; some of them turned by EXIF."""
    root = tmp_path / 'sizes'
    for name, suffix in (('40x30', '.jpg'), ('41x31', '.png'), ('41x30', '.jpg'), ('60x20', '.png'), ('99x99', '.tif')):
        width, height = map(int, name.split('x'))
        write_pair(root, name, np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), suffix)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name, size, suffix in (('50x40', (40, 50), 'jpg'), ('30x50', (50, 30), 'jpg'), ('50x41', (41, 50), 'png')):
        name = f'turned_{name}'
        Image.new('RGB', size).save(root / f'im/{name}.{suffix}', exif=exif)
        Image.new('L', size[::-1]).save(root / f'gt/{name}.png')
    return root


def test_larger_than(sizes):
    dataset = DichotomousDataset(str(sizes), larger_than=(40, 30))
    assert [Path(item['img_path']).stem for item in dataset] == ['41x31', '99x99', 'turned_50x40', 'turned_50x41']
    assert len(DichotomousDataset(str(sizes))) == 8
    for item in dataset:
        height, width = read_image(item['img_path']).shape[:2]
        assert read_image_size(item['img_path']) == (width, height)


def test_larger_than_counts_what_it_leaves_out(sizes, monkeypatch):
    messages = []
    monkeypatch.setattr(dichotomous, 'print_log', lambda message, *_: messages.append(message))
    DichotomousDataset(str(sizes), larger_than=(40, 30))
    assert messages == ['larger_than=40x30 leaves out 4 of 8 images: 4 of 8 in sizes']
    with pytest.raises(ValueError, match='larger_than=200x10 leaves out 8 of 8 images'):
        DichotomousDataset(str(sizes), larger_than=(200, 10))
    with pytest.raises(ValueError, match=r'larger_than=\(200,\), must be \(width, height\)'):
        DichotomousDataset(str(sizes), larger_than=(200,))


def test_larger_than_leaves_damaged_files_to_the_pipeline(sizes):
    (sizes / 'im/60x20.png').write_bytes(b'')
    stems = [Path(item['img_path']).stem for item in DichotomousDataset(str(sizes), larger_than=(40, 30))]
    assert '60x20' in stems
