"""``mmbirefnet compare``: the page in a headless Chromium, looked at by its pixels, and its errors."""

import io
import shutil

import numpy as np
import pytest
from fake_backend import RedBackend
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer, Settings, compare, comparison
from mmbirefnet.apis.comparison import parse_version
from mmbirefnet.cli import main

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
RED, BLUE = (255, 0, 0), (0, 0, 200)


class Inverted(RedBackend):
    """The map is what the red channel lacks."""

    name = 'inverted'

    def __call__(self, images):
        return 1 - super().__call__(images)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A red half beside a blue one."""
    pixels = np.full((100, 200, 3), BLUE, np.uint8)
    pixels[:50] = RED
    (tmp_path / 'in').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'in/half.png')
    monkeypatch.chdir(tmp_path)
    loaded = []

    class Fake(BiRefNetInferencer):
        def __init__(self, model=None, device=None, dtype='float32', backend=None):
            loaded.append((model, dtype))
            super().__init__(backend=backend or (Inverted() if 'inverted' in str(model) else RedBackend()))

    monkeypatch.setattr(comparison, 'BiRefNetInferencer', Fake)
    return loaded


def run(*words):
    return main.main(['compare', *map(str, words)])


@pytest.mark.parametrize(
    ('text', 'model', 'settings', 'dtype'),
    [
        ('BiRefNet', 'BiRefNet', Settings(), 'float32'),
        ('BiRefNet@2048', 'BiRefNet', Settings(input_size=2048), 'float32'),
        ('a/b@1a2b3c@512x1024,flip', 'a/b@1a2b3c', Settings(input_size=(512, 1024), flip=True), 'float32'),
        ('user/repo@main:file.pth', 'user/repo@main:file.pth', Settings(), 'float32'),
        ('m.onnx@image,guided,bfloat16', 'm.onnx', Settings(input_size='image', refine='guided'), 'bfloat16'),
    ],
)
def test_versions(text, model, settings, dtype):
    assert parse_version(text) == (model, settings, dtype)


def test_a_wrong_size_is_an_error(images, capsys):
    assert run('BiRefNet@200', 'in', '-o', 'page.html') == main.USAGE_ERROR
    assert 'input_size=200, must be' in capsys.readouterr().err
    assert not images


def test_page(images, tmp_path, capsys):
    sync_api = pytest.importorskip('playwright.sync_api')
    if CHROMIUM is None:
        pytest.skip('needs chromium (Debian, Ubuntu: apt install chromium)')
    (tmp_path / 'in/bad<script>.png').write_text('bad')
    assert run('first@64', 'inverted', 'in', '-o', 'page.html', '--no-estimate-foreground') == 1
    assert images == [('first', 'float32'), ('inverted', 'float32')]
    captured = capsys.readouterr()
    assert 'page.html: 2 versions of 2 images' in captured.out
    assert captured.err.count('failed: in/bad<script>.png: not an image') == 2
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 900, 'height': 700})
        errors, requests = [], []
        page.on('pageerror', lambda error: errors.append(error))
        page.on('request', lambda request: requests.append(request.url))
        page.goto((tmp_path / 'page.html').as_uri())
        page.select_option('#show', '#00b140')
        pair = page.locator('.pair')

        def colors():
            """At a quarter and three quarters of width and height."""
            pixels = np.asarray(Image.open(io.BytesIO(pair.screenshot())).convert('RGB')).astype(int)
            height, width = pixels.shape[:2]
            return [pixels[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]

        green = (0, 177, 64)
        assert pair.count() == 1
        # Left: the red half is the object. Right: the blue one.
        for color, expected in zip(colors(), (RED, green, green, BLUE)):
            assert color == pytest.approx(expected, abs=6)
        page.locator('input[type=range]').evaluate(
            "slider => { slider.value = 100; slider.dispatchEvent(new Event('input')); }"
        )
        for color, expected in zip(colors(), (RED, RED, green, green)):
            assert color == pytest.approx(expected, abs=6)
        page.select_option('#show', 'mask')
        for color, expected in zip(colors(), (255, 255, 0, 0)):
            assert color == pytest.approx((expected,) * 3, abs=6)
        page.select_option('#left', '0')
        for color, expected in zip(colors(), (RED, RED, BLUE, BLUE)):
            assert color == pytest.approx(expected, abs=6)
        assert 'input 32x64 (height x width)' in page.inner_text('section p')
        browser.close()
    assert not errors
    assert {url.partition(':')[0] for url in requests} <= {'file', 'data'}


def test_python(images, tmp_path):
    inferencers = {'one': BiRefNetInferencer(backend=RedBackend()), 'other': BiRefNetInferencer(backend=Inverted())}
    inferencers['</script>'] = inferencers['one']
    assert compare(inferencers, ['in/half.png'], tmp_path / 'new/page.html', longest=50).read_text().count('webp') == 4
    page = (tmp_path / 'new/page.html').read_text()
    assert page.count('</script>') == 1
    with pytest.raises(FileExistsError, match=r'page\.html: already exists'):
        compare(inferencers, 'in', tmp_path / 'new/page.html', overwrite=False)
    with pytest.raises(ValueError, match='BiRefNet: is given twice. Fix: .* BiRefNet@2048'):
        compare(['BiRefNet', 'BiRefNet'], 'in', 'x.html')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['BiRefNet', '-o', 'x.html'], 'no image among the arguments'),
        (['in', '-o', 'x.html'], 'no model among the arguments'),
        (['BiRefNet', 'in', '-o', 'x.png'], '-o x.png: must end in .html'),
        (['BiRefNet', 'none.png', '*.gif', '-o', 'x.html'], '*.gif: matches no images'),
    ],
)
def test_wrong_arguments_are_usage_errors(images, words, message, capsys):
    assert run(*words) == main.USAGE_ERROR
    assert message in capsys.readouterr().err
