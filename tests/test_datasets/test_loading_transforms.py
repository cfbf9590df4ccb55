import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mmbirefnet.datasets.transforms import LoadImage, LoadMask
from mmbirefnet.datasets.transforms.decode import read_mask
from mmbirefnet.imaging import read
from mmbirefnet.imaging.file_structure import jpeg_ends

RNG = np.random.default_rng(0)
COLOR = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (40, 30), interpolation=cv2.INTER_CUBIC)
GREY = COLOR[..., 1].copy()
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: the stored image is to be turned by 90 degrees clockwise


def load_image(path):
    return LoadImage()({'img_path': str(path)})


def load_mask(path, shape=GREY.shape):
    return LoadMask()({'img_path': 'image.jpg', 'seg_map_path': str(path), 'ori_shape': shape})['gt_seg_map']


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


class TestLoadImage:
    @pytest.mark.parametrize(
        ('suffix', 'options'),
        [
            ('.jpg', []),
            ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
            ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
            ('.png', []),
            ('.bmp', []),
            ('.tif', []),
            ('.webp', []),
        ],
    )
    def test_equals_imread(self, tmp_path, suffix, options):
        path = tmp_path / f'a{suffix}'
        cv2.imwrite(str(path), COLOR, options)
        results = load_image(path)
        np.testing.assert_array_equal(results['img'], cv2.imread(str(path)))
        assert results['img'].dtype == np.uint8
        assert results['img_shape'] == results['ori_shape'] == (30, 40)

    def test_grey_becomes_three_equal_channels(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), GREY)
        np.testing.assert_array_equal(load_image(tmp_path / 'a.png')['img'], np.stack([GREY] * 3, -1))

    def test_transparent_pixels_are_gray_as_in_inference(self, tmp_path):
        alpha = GREY[..., None] / 255
        cv2.imwrite(str(tmp_path / 'a.png'), np.dstack([COLOR, GREY]))
        image = load_image(tmp_path / 'a.png')['img']
        assert np.abs(image - (COLOR * alpha + 128 * (1 - alpha))).max() <= 0.51
        np.testing.assert_array_equal(image[..., ::-1], read.load_image(tmp_path / 'a.png').visible())

    def test_16_bits_become_8(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), COLOR.astype(np.uint16) * 257)
        np.testing.assert_array_equal(load_image(tmp_path / 'a.png')['img'], COLOR)

    def test_cmyk(self, tmp_path):
        Image.new('CMYK', (40, 30), (0, 255, 255, 0)).save(tmp_path / 'a.jpg', quality=100)  # red
        image = load_image(tmp_path / 'a.jpg')['img'].astype(int)
        assert image.shape == (30, 40, 3)
        assert np.abs(image - (0, 0, 255)).max() <= 3

    def test_exif_orientation_is_applied(self, tmp_path):
        Image.fromarray(COLOR[..., ::-1]).save(tmp_path / 'a.png', exif=TURNED)
        results = load_image(tmp_path / 'a.png')
        np.testing.assert_array_equal(results['img'], np.rot90(COLOR, -1))
        assert results['ori_shape'] == (40, 30)

    def test_thumbnail_in_the_header_is_not_the_end(self, tmp_path):
        thumbnail = encoded(Image.new('RGB', (8, 8)), format='jpeg')
        data = encoded(Image.fromarray(COLOR), format='jpeg')
        segment = b'\xff\xe1' + (2 + len(thumbnail)).to_bytes(2, 'big') + thumbnail
        (tmp_path / 'a.jpg').write_bytes(data[:2] + segment + data[2:])
        assert load_image(tmp_path / 'a.jpg')['ori_shape'] == (30, 40)
        (tmp_path / 'a.jpg').write_bytes((data[:2] + segment + data[2:])[:-50])
        with pytest.raises(OSError, match='a.jpg'):
            load_image(tmp_path / 'a.jpg')

    @pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_rows': 1}])
    def test_jpeg_is_followed_to_its_end(self, options):
        """Whatever OpenCV makes of it: older versions fill up a truncated JPEG."""
        data = encoded(Image.fromarray(COLOR), format='jpeg', quality=95, **options)
        assert jpeg_ends(data)
        assert not any(jpeg_ends(data[:length]) for length in range(2, len(data)))

    def test_bytes_behind_the_end_do_no_harm(self, tmp_path):
        (tmp_path / 'a.jpg').write_bytes(encoded(Image.fromarray(COLOR), format='jpeg') + b'\0' * 100)
        assert load_image(tmp_path / 'a.jpg')['ori_shape'] == (30, 40)

    @pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp'])
    @pytest.mark.parametrize('kept', [0.0, 0.05, 0.5, 0.9])
    def test_truncated_file(self, tmp_path, suffix, kept):
        data = cv2.imencode(suffix, COLOR)[1].tobytes()
        (tmp_path / f'a{suffix}').write_bytes(data[: int(kept * len(data))])
        with pytest.raises(OSError, match=f'a{suffix}'):
            load_image(tmp_path / f'a{suffix}')

    def test_jpeg_without_its_end_marker(self, tmp_path):
        (tmp_path / 'a.jpg').write_bytes(encoded(Image.fromarray(COLOR), format='jpeg')[:-2])
        with pytest.raises(OSError, match='a.jpg: truncated'):
            load_image(tmp_path / 'a.jpg')

    def test_no_image_and_no_file(self, tmp_path):
        (tmp_path / 'a.png').write_text('not a image')
        with pytest.raises(OSError, match='a.png'):
            load_image(tmp_path / 'a.png')
        with pytest.raises(FileNotFoundError, match='b.png'):
            load_image(tmp_path / 'b.png')


class TestLoadMask:
    @pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif'])
    @pytest.mark.parametrize('mode', ['L', 'RGB', 'P'])
    def test_every_level_is_kept(self, tmp_path, suffix, mode):
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        Image.fromarray(levels).convert(mode).save(tmp_path / f'a.{suffix}')
        mask = load_mask(tmp_path / f'a.{suffix}', (16, 16))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, levels)

    @pytest.mark.parametrize('mode', ['LA', 'RGBA'])
    def test_constant_alpha_is_dropped(self, tmp_path, mode):
        Image.fromarray(GREY).convert(mode).save(tmp_path / 'a.png')
        np.testing.assert_array_equal(load_mask(tmp_path / 'a.png'), GREY)

    def test_one_bit_and_black_and_white_palette(self, tmp_path):
        hard = GREY > 128
        Image.fromarray(hard).save(tmp_path / 'bits.png')
        palette = Image.fromarray(hard.astype(np.uint8))
        palette.putpalette([0, 0, 0, 255, 255, 255])
        palette.save(tmp_path / 'palette.png')
        for name in ('bits.png', 'palette.png'):
            np.testing.assert_array_equal(load_mask(tmp_path / name), 255 * hard.astype(np.uint8))

    @pytest.mark.parametrize('suffix', ['.png', '.tif'])
    def test_16_bit_masks_are_reduced_to_8_bits(self, tmp_path, suffix):
        path = str(tmp_path / f'a{suffix}')
        cv2.imwrite(path, GREY.astype(np.uint16) * 257)
        np.testing.assert_array_equal(load_mask(path), GREY)
        fine = np.array([[0, 1, 32768], [257, 65534, 65535]], np.uint16)
        cv2.imwrite(path, fine)
        mask = load_mask(path, (2, 3))
        assert mask.dtype == np.float32
        np.testing.assert_allclose(mask, [[0, 1 / 65535, 32768 / 65535], [257 / 65535, 65534 / 65535, 1]], rtol=1e-7)

    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    def test_scoring_reads_fractions_whatever_the_file_holds(self, tmp_path, dtype):
        path, white = str(tmp_path / 'a.png'), np.iinfo(dtype).max
        cv2.imwrite(path, np.array([[0, 1], [white // 3, white]], dtype))
        alpha = read_mask(path)
        assert alpha.dtype == np.float32
        np.testing.assert_allclose(alpha, [[0, 1 / white], [1 / 3, 1]], rtol=1e-7)

    def test_empty_and_full_masks_are_masks(self, tmp_path):
        for dtype, value in ((np.uint8, 0), (np.uint8, 255), (np.uint16, 0), (np.uint16, 65535)):
            cv2.imwrite(str(tmp_path / 'a.png'), np.full((4, 4), value, dtype))
            np.testing.assert_array_equal(load_mask(tmp_path / 'a.png', (4, 4)), np.full((4, 4), 255 * (value > 0)))

    def colored_palette():
        image = Image.fromarray((GREY > 128).astype(np.uint8))
        image.putpalette([0, 0, 0, 128, 0, 0])
        return image

    @pytest.mark.parametrize(
        ('image', 'message'),
        [
            (Image.fromarray(COLOR), 'channels differ'),
            (colored_palette(), 'channels differ'),
            (Image.fromarray(np.dstack([GREY, GREY, GREY, GREY])), 'alpha'),
            (Image.merge('LA', [Image.fromarray(GREY), Image.fromarray(255 - GREY)]), 'alpha'),
            (Image.fromarray((GREY > 128).astype(np.uint8)), 'class ids'),
            (Image.fromarray(GREY.astype(np.uint16)), 'class ids'),
        ],
    )
    def test_ambiguous_mask(self, tmp_path, image, message):
        image.save(tmp_path / 'a.png')
        with pytest.raises(ValueError, match=f'a.png: .*{message}'):
            load_mask(tmp_path / 'a.png')

    def test_floating_point_mask(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.tif'), GREY.astype(np.float32) / 255)
        with pytest.raises(ValueError, match='a.tif: .*float32'):
            load_mask(tmp_path / 'a.tif')

    def test_truncated_mask(self, tmp_path):
        data = cv2.imencode('.png', GREY)[1].tobytes()
        (tmp_path / 'a.png').write_bytes(data[: len(data) // 2])
        with pytest.raises(OSError, match='a.png: truncated'):
            load_mask(tmp_path / 'a.png')

    def test_size_differs(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), GREY)
        with pytest.raises(ValueError, match=r'image.jpg is 50x30, .*a.png is 40x30'):
            load_mask(tmp_path / 'a.png', (30, 50))

    def test_orientation_of_image_and_mask_go_together(self, tmp_path):
        Image.fromarray(COLOR).save(tmp_path / 'a.jpg', exif=TURNED)
        Image.fromarray(GREY).save(tmp_path / 'turned.png', exif=TURNED)
        Image.fromarray(GREY).save(tmp_path / 'a.png')
        results = load_image(tmp_path / 'a.jpg')
        mask = LoadMask()({**results, 'seg_map_path': str(tmp_path / 'turned.png')})['gt_seg_map']
        np.testing.assert_array_equal(mask, np.rot90(GREY, -1))
        with pytest.raises(ValueError, match='EXIF'):
            LoadMask()({**results, 'seg_map_path': str(tmp_path / 'a.png')})

    def test_original_size_after_the_images_resize(self, tmp_path):
        cv2.imwrite(str(tmp_path / 'a.png'), GREY)
        results = {'img_path': 'a.jpg', 'seg_map_path': str(tmp_path / 'a.png'), 'img': COLOR[:8, :8]}
        results = LoadMask()({**results, 'img_shape': (8, 8), 'ori_shape': GREY.shape, 'seg_fields': []})
        np.testing.assert_array_equal(results['gt_seg_map'], GREY)
        assert results['seg_fields'] == ['gt_seg_map']

    def test_without_a_mask_path_nothing_is_loaded(self):
        assert LoadMask()({'img_path': 'a.jpg'}) == {'img_path': 'a.jpg'}


def saved(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


class TestMasksOfClassIds:
    """Masks of label editors, which would be trained as almost no object."""

    @pytest.mark.parametrize('ids', [(0, 2), (0, 15), (0, 38, 75), (0, 1, 2, 3, 7), (3,), (0, 128), (0, 1, 255)])
    def test_class_ids_are_rejected(self, tmp_path, ids):
        mask = np.zeros((40, 60), np.uint8)
        for index, value in enumerate(ids):
            mask[2 * index : 40 - 2 * index, 2 * index : 50 - 2 * index] = value
        if ids[-1] == 255:  # pixels to be ignored, a border around the object
            mask[:] = 0
            mask[5:35, 5:50] = 255
            mask[7:33, 7:48] = 1
        path = saved(tmp_path / 'ids.png', mask)
        with pytest.raises(ValueError, match=r'ids\.png: holds the values .* class ids\? Fix: save a mask'):
            load_mask(path, mask.shape)

    @pytest.mark.parametrize('levels', [(0, 255), (0, 254), (0, 128, 255), (0, 64, 128, 191, 255), (0, 30, 230)])
    def test_gray_levels_are_accepted(self, tmp_path, levels):
        mask = np.zeros((40, 60), np.uint8)
        for index, value in enumerate(levels):
            mask[2 * index : 40 - 2 * index, 2 * index : 50 - 2 * index] = value
        np.testing.assert_array_equal(load_mask(saved(tmp_path / 'a.png', mask), mask.shape), mask)

    def test_faint_objects_are_accepted(self, tmp_path):
        faint = (np.hypot(*np.mgrid[-20:20, -20:20]) < 15) * np.linspace(20, 90, 40).astype(np.uint8)
        small = np.zeros((40, 40), np.uint8)
        small[3, 4:7] = 20, 60, 35  # what a reduction leaves of a thin object
        for mask in (faint.astype(np.uint8), small, np.zeros_like(small)):
            np.testing.assert_array_equal(load_mask(saved(tmp_path / 'a.png', mask), mask.shape), mask)


class TestMasksInAlpha:
    ALPHA = np.linspace(0, 255, 30 * 40).reshape(30, 40).astype(np.uint8)

    @pytest.mark.parametrize('color', [(255, 255, 255), (0, 0, 0), (200, 30, 60)])
    def test_constant_color(self, tmp_path, color):
        pixels = np.dstack([np.broadcast_to(np.uint8(color), (30, 40, 3)), self.ALPHA])
        for suffix in ('png', 'webp', 'tif'):
            Image.fromarray(pixels).save(tmp_path / f'a.{suffix}', **(dict(lossless=True) if suffix == 'webp' else {}))
            np.testing.assert_array_equal(load_mask(tmp_path / f'a.{suffix}', (30, 40)), self.ALPHA)

    def test_color_may_vary_where_nothing_is_seen(self, tmp_path):
        alpha = np.where(self.ALPHA > 100, self.ALPHA, 0)
        pixels = np.dstack([np.where(alpha[..., None] > 0, 255, COLOR), alpha])
        np.testing.assert_array_equal(load_mask(saved(tmp_path / 'a.png', pixels), (30, 40)), alpha)

    def test_16_bit_masks_are_reduced_to_8_bits(self, tmp_path):
        pixels = np.dstack([np.full((30, 40, 3), 65535, np.uint16), self.ALPHA.astype(np.uint16) * 257])
        cv2.imwrite(str(tmp_path / 'a.png'), pixels)
        np.testing.assert_array_equal(load_mask(tmp_path / 'a.png', (30, 40)), self.ALPHA)

    @pytest.mark.parametrize('color', [COLOR, np.dstack([GREY] * 3)])
    def test_cutouts_are_no_masks(self, tmp_path, color):
        with pytest.raises(ValueError, match=r'a\.png: color and alpha both vary, which of them is the mask'):
            load_mask(saved(tmp_path / 'a.png', np.dstack([color, self.ALPHA])), (30, 40))

    def test_exif_orientation(self, tmp_path):
        pixels = np.dstack([np.full((30, 40, 3), 255, np.uint8), self.ALPHA])
        Image.fromarray(pixels).save(tmp_path / 'a.png', exif=TURNED)
        with pytest.raises(ValueError, match=r'a\.png: alpha with an EXIF orientation'):
            load_mask(tmp_path / 'a.png', (40, 30))
