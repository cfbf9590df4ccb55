"""The page in a headless Chromium: drop an image, compare before and after, download the cut-out."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from red import TakesRed, red_square
from running_service import service

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.read import LoadedImage

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
sync_api = pytest.importorskip('playwright.sync_api')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium (Debian, Ubuntu: apt install chromium)')
RGB, _ = red_square(192, 256)


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    with service() as (host, port):
        page = browser.new_page(viewport={'width': 900, 'height': 800})
        errors = []
        page.on('pageerror', lambda error: errors.append(error))
        page.goto(f'http://{host}:{port}/')
        yield page
        page.close()
        assert not errors


def encode(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, 'PNG')
    return file.getvalue()


def drop(page, name, content):
    """Drop a file on the page, as a person does."""
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type: 'image/png'}));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event('#drop', 'drop', {'dataTransfer': transfer})


def shown(page):
    """Screen pixels of the comparison, at (column, row) of the image."""
    box = page.locator('#compare').bounding_box()
    image = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert('RGB')).astype(int)

    def at(column, row):
        x = box['x'] + (column + 0.5) * box['width'] / RGB.shape[1]
        y = box['y'] + (row + 0.5) * box['height'] / RGB.shape[0]
        return image[int(y), int(x)]

    return at


def test_drop_compare_download(page, tmp_path):
    drop(page, 'red square.png', encode(RGB))
    page.wait_for_selector('#result:not([hidden])')
    assert page.inner_text('#status').startswith('Done in')
    blue, red = (20, 30, 200), (220, 20, 30)
    for percent, left_is_before, right_is_before in ((50, True, False), (10, False, False), (100, True, True)):
        page.eval_on_selector('#slider', f"e => {{ e.value = {percent}; e.dispatchEvent(new Event('input')); }}")
        at = shown(page)
        for column, before in ((50, left_is_before), (225, right_is_before)):
            pixel = at(column, 20)
            assert (np.abs(pixel - blue).max() < 12) == before
            assert (pixel.min() > 190) == (not before)  # the chequered ground
        assert np.abs(at(90, 70) - red).max() < 12  # the object shows on both sides
    with page.expect_download() as download:
        page.click('#download')
    assert download.value.suggested_filename == 'red square-cutout.png'
    download.value.save_as(tmp_path / 'cutout.png')
    soft_map = BiRefNetInferencer(backend=TakesRed()).predict_image(LoadedImage(RGB))
    np.testing.assert_array_equal(Image.open(tmp_path / 'cutout.png'), cut_out(LoadedImage(RGB), soft_map))


def test_choose_a_file_and_a_background(page):
    page.set_input_files('#file', {'name': 'a.png', 'mimeType': 'image/png', 'buffer': encode(RGB)})
    page.wait_for_selector('#result:not([hidden])')
    with page.expect_response('**/api/cut'):
        page.select_option('#background', 'black')
    page.wait_for_selector('#result:not([hidden])')
    page.eval_on_selector('#slider', "e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    at = shown(page)
    assert at(20, 20).max() < 10
    assert np.abs(at(90, 70) - (220, 20, 30)).max() < 12


def test_errors_are_shown_and_the_next_picture_works(page):
    drop(page, 'broken.png', b'no image')
    page.wait_for_selector('#status.error')
    assert 'broken.png: no image that can be read' in page.inner_text('#status')
    assert page.is_hidden('#result')
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#result:not([hidden])')
    assert page.locator('#status.error').count() == 0


def test_a_service_that_is_gone_is_told(browser):
    with service(TakesRed()) as (host, port):
        page = browser.new_page()
        page.goto(f'http://{host}:{port}/')
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#status.error')
    page.close()
