import io
import struct
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from mmbirefnet.datasets.transforms.decode import read_image
from mmbirefnet.imaging.read import VISIBLE_BEHIND, TooManyPixelsError, load_image

RED_GREEN = np.zeros((2, 3, 3), np.uint8)
RED_GREEN[..., 0], RED_GREEN[0, :, 1] = 200, 100  # upper row orange, lower row red
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def saved(image, format='PNG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gray_profile(gamma_curve: int = 0x0100) -> bytes:
    """A grey ICC profile (ICC.1:2001-04) with gamma 1.0 in u8Fixed8, written out by hand."""
    curve = b'curv' + bytes(4) + struct.pack('>IH', 1, gamma_curve) + bytes(2)
    white = b'XYZ ' + bytes(4) + struct.pack('>3i', 63190, 65536, 54061)
    text = b'desc' + bytes(4) + struct.pack('>I', 5) + b'grey\0' + bytes(4 + 4 + 2 + 1 + 67)
    text += bytes(-len(text) % 4)
    copyright_ = b'text' + bytes(4) + b'none\0' + bytes(3)
    parts = {b'kTRC': curve, b'wtpt': white, b'desc': text, b'cprt': copyright_}
    offset, table, data = 128 + 4 + 12 * len(parts), struct.pack('>I', len(parts)), b''
    for name, part in parts.items():
        table += struct.pack('>4sII', name, offset + len(data), len(part))
        data += part
    header = struct.pack(
        '>I4xI4s4s4s12x4s', 128 + len(table) + len(data), 0x02400000, b'mntr', b'GRAY', b'XYZ ', b'acsp'
    )
    header += bytes(68 - len(header)) + struct.pack('>3i', 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + data


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(orientation):
    """The file's pixels are stored turned; what is read is upright."""
    stored = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x, 3),
    }
    upright = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
    image = Image.fromarray(np.ascontiguousarray(stored[orientation](upright)))
    exif = image.getexif()
    exif[0x0112] = orientation
    assert np.array_equal(load_image(saved(image, exif=exif)).rgb, upright)


def test_jpeg_is_what_opencv_reads(tmp_path):
    """The test pipeline reads with OpenCV."""
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (50, 71, 3), np.uint8), (0, 0), 2)
    cv2.imwrite(str(tmp_path / 'a.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])
    read = load_image(tmp_path / 'a.jpg')
    assert read.path == tmp_path / 'a.jpg'
    assert np.array_equal(read.rgb[..., ::-1], cv2.imread(str(tmp_path / 'a.jpg')))


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('order', ['<', '>'])
def test_orientation_is_read_from_a_damaged_exif(order):
    """As in a photo whose EXIF has a rational number outside its segment: Pillow refuses the whole image."""
    entries = struct.pack(f'{order}HHIHxx', 0x0112, 3, 1, 6) + struct.pack(f'{order}HHII', 0x0128, 8, 1, 0xFFFF)
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}IH', 8, 2)
    exif = b'Exif\0\0' + head + entries + struct.pack(f'{order}I', 0xFFFFFFF0)
    for format in ('JPEG', 'PNG', 'WEBP'):
        data = saved(Image.fromarray(RED_GREEN), format, exif=exif)
        assert load_image(data).size == (3, 2)
    for length in range(6, len(exif)):  # cut off anywhere: read, upright or as stored
        assert sorted(load_image(saved(Image.fromarray(RED_GREEN), 'JPEG', exif=exif[:length])).size) == [2, 3]


def test_alpha_is_kept_and_composited_on_gray():
    rgba = np.dstack([RED_GREEN, [[0, 128, 255], [255, 255, 255]]]).astype(np.uint8)
    loaded = load_image(saved(Image.fromarray(rgba)))
    assert np.array_equal(loaded.rgb, RED_GREEN)
    assert np.array_equal(loaded.alpha, rgba[..., 3])
    seen = loaded.visible()
    assert seen[0].tolist() == [[VISIBLE_BEHIND] * 3, [164, 114, 64], [200, 100, 0]]  # 0, 128/255 and 1 of the colour
    assert load_image(saved(Image.fromarray(np.dstack([RED_GREEN, np.full((2, 3), 255, np.uint8)])))).alpha is None


def test_palette_with_transparent_entry():
    image = Image.new('P', (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    loaded = load_image(saved(image, transparency=0))
    assert loaded.rgb.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert loaded.alpha.tolist() == [[0, 255]]


def test_grey_with_alpha():
    loaded = load_image(saved(Image.merge('LA', [Image.new('L', (1, 1), 77), Image.new('L', (1, 1), 9)])))
    assert (loaded.rgb.tolist(), loaded.alpha.tolist()) == ([[[77] * 3]], [[9]])


@pytest.mark.parametrize('mode', ['1', 'L', 'RGB', 'HSV', 'YCbCr'])
def test_other_modes(mode):
    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert(mode)
    assert (load_image(image).rgb == 255).all()


def test_sixteen_bits_are_scaled():
    """Pillow's conversion would clip 0x1234 to 255."""
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 65535]], np.uint16)
    for data in (cv2.imencode('.png', values)[1].tobytes(), cv2.imencode('.tif', values)[1].tobytes()):
        assert load_image(data).rgb[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x80, 255]
    color = np.repeat(values[..., None], 3, 2)
    assert load_image(cv2.imencode('.png', color)[1].tobytes()).rgb[0, :, 1].tolist() == [0, 0, 1, 0x12, 0x80, 255]
    assert load_image(values).rgb[0, :, 2].tolist() == [0, 0, 1, 0x12, 0x80, 255]
    assert load_image(Image.fromarray(values.astype(np.int32))).rgb[0, -1].tolist() == [255] * 3


def test_float_tiff_is_scaled():
    assert load_image(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))).rgb[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match=r'a\.tif: values from 0\.0 to 3\.0'):
        load_image(Image.fromarray(np.array([[0, 3]], np.float32)), 'a.tif')


def test_cmyk_without_profile():
    loaded = load_image(saved(Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'JPEG', quality=100))
    assert np.abs(loaded.rgb.astype(int) - [255, 0, 0]).max() <= 3
    assert loaded.icc_profile is None


def test_cmyk_goes_through_its_profile(monkeypatch):
    """No CMYK profile is free to ship: that of a grey image stands for one, and what is called is looked at."""
    calls = []

    def convert(image, source, target, outputMode):  # noqa: N803
        calls.append((image.mode, outputMode))
        return Image.new('RGB', image.size, (1, 2, 3))

    profile = bytearray(gray_profile())
    profile[16:20] = b'CMYK'
    monkeypatch.setattr(ImageCms, 'profileToProfile', convert)
    loaded = load_image(saved(Image.new('CMYK', (2, 2)), 'TIFF', icc_profile=bytes(profile)))
    assert calls == [('CMYK', 'RGB')]
    assert loaded.rgb[0, 0].tolist() == [1, 2, 3]
    assert loaded.icc_profile is None


def test_grey_profile_is_applied():
    """Linear 0.25 is 137 in sRGB: 255 * (1.055 * 0.25**(1 / 2.4) - 0.055)."""
    loaded = load_image(saved(Image.new('L', (2, 2), 64), icc_profile=gray_profile()))
    assert np.abs(loaded.rgb.astype(int) - 137).max() <= 1
    assert loaded.icc_profile is None
    with_alpha = Image.merge('LA', [Image.new('L', (2, 2), 64), Image.new('L', (2, 2), 7)])
    loaded = load_image(saved(with_alpha, icc_profile=gray_profile()))
    assert np.abs(loaded.rgb.astype(int) - 137).max() <= 1
    assert (loaded.alpha == 7).all()


def test_lab():
    lab = Image.frombytes('LAB', (1, 1), bytes([255, 0, 0]))
    assert (load_image(lab).rgb >= 254).all()


def test_rgb_profile_is_kept():
    assert load_image(saved(Image.fromarray(RED_GREEN), icc_profile=SRGB)).icc_profile == SRGB


def test_damaged_profile_is_a_warning():
    with pytest.warns(UserWarning, match=r'a\.png: the color profile does not fit the RGB pixels'):
        loaded = load_image(saved(Image.fromarray(RED_GREEN), icc_profile=b'nonsense' * 20), 'a.png')
    assert np.array_equal(loaded.rgb, RED_GREEN)
    assert loaded.icc_profile is None


def test_arrays_of_all_layouts():
    assert np.array_equal(load_image(RED_GREEN).rgb, RED_GREEN[..., ::-1])
    assert np.array_equal(load_image(RED_GREEN, channel_order='rgb').rgb, RED_GREEN)
    assert load_image(np.full((1, 2), 9, np.uint8)).rgb.tolist() == [[[9] * 3] * 2]
    assert load_image(np.full((1, 1, 1), 0.5)).rgb.tolist() == [[[128] * 3]]
    loaded = load_image(np.array([[[1, 2, 3, 4]]], np.uint8))
    assert (loaded.rgb.tolist(), loaded.alpha.tolist()) == ([[[3, 2, 1]]], [[4]])


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((2, 2, 2), np.uint8), r'\(2, 2, 2\)'),
        (np.zeros((0, 2, 3), np.uint8), r'\(0, 2, 3\)'),
        (np.zeros((2, 2), np.int64), 'int64'),
        (np.full((2, 2), 2.0), 'must be in'),
        (np.full((2, 2), np.nan), 'must be in'),
    ],
)
def test_wrong_arrays(array, message):
    with pytest.raises(ValueError, match=message):
        load_image(array)


def test_wrong_files(tmp_path):
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.png').write_text('hello')
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), 'JPEG')
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    for name, message in (('empty', 'empty file'), ('text', 'not an image'), ('cut', 'truncated')):
        (path,) = tmp_path.glob(f'{name}.*')
        with pytest.raises(OSError, match=f'{name}.*{message}'):
            load_image(path)
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        load_image(tmp_path / 'gone.png')
    with pytest.raises(TypeError, match='NoneType'):
        load_image(None)


def test_too_many_pixels(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    with pytest.raises(ValueError, match=r'big\.png.*MAX_IMAGE_PIXELS'):
        load_image(saved(Image.new('RGB', (9, 9))), 'big.png')


def test_heic_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(OSError, match=r"a\.heic: HEIC .* pillow-heif\. Fix: pip install 'mmbirefnet\[formats\]'"):
        load_image(b'\0\0\0\x18ftypheic' + bytes(100), 'a.heic')


def test_avif_needs_a_build_of_pillow(monkeypatch):
    monkeypatch.delitem(Image.OPEN, 'AVIF', raising=False)
    with pytest.raises(OSError, match=r"a\.avif: .*does not read AVIF\. Fix: pip install 'mmbirefnet\[formats\]'"):
        load_image(b'\0\0\0\x18ftypavif' + bytes(100), 'a.avif')


def test_avif(tmp_path):
    rgb = np.full((64, 96, 3), (200, 100, 0), np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'a.avif', quality=95)
    assert np.abs(load_image(tmp_path / 'a.avif').rgb.astype(int) - rgb).max() <= 3


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip('pillow_heif')
    pillow_heif.register_heif_opener()
    rgb = np.full((64, 96, 3), (200, 100, 0), np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'a.heic', quality=95)
    assert np.abs(load_image(tmp_path / 'a.heic').rgb.astype(int) - rgb).max() <= 3


def test_longest_side(monkeypatch):
    monkeypatch.setattr('mmbirefnet.imaging.read.MAX_SIDE', 8)
    with pytest.raises(TooManyPixelsError, match=r'long\.png: 9x1 pixels; no side'):
        load_image(saved(Image.new('RGB', (9, 1))), 'long.png')


@pytest.mark.parametrize('format', ['JPEG', 'PNG'])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_benchmark_pixels_are_those_of_opencv(format, mode, orientation, tmp_path):
    """Opaque 8-bit images, as in the benchmarks, are what ``cv2.imread`` returns, in training and in inference."""
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (37, 51, 3), np.uint8), (0, 0), 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(tmp_path / 'a', format, exif=exif)
    expected = cv2.imread(str(tmp_path / 'a'))
    assert np.array_equal(read_image(str(tmp_path / 'a')), expected)
    assert np.array_equal(load_image(tmp_path / 'a').visible()[..., ::-1], expected)
