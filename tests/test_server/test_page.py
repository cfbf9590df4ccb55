"""The page in a headless Chromium: drop an image, compare before and after, download the cut-out."""

import base64
import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from red import TakesRed, red_square
from running_service import service

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.maps import box_of_object
from mmbirefnet.imaging.read import LoadedImage

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
sync_api = pytest.importorskip('playwright.sync_api')
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(CHROMIUM is None, reason='needs chromium (Debian, Ubuntu: apt install chromium)'),
]
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
        # The first listener makes Chromium report file choosers; the call does not wait until it does.
        page.on('filechooser', lambda chooser: None)
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
            assert (pixel.min() > 190) == (not before)  # the checkered ground
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


def test_errors_are_shown_and_the_next_image_works(page):
    drop(page, 'broken.png', b'no image')
    page.wait_for_selector('#status.error')
    assert 'broken.png: not an image that can be read' in page.inner_text('#status')
    assert page.is_hidden('#result')
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#result:not([hidden])')
    assert page.locator('#status.error').count() == 0


def test_a_service_that_is_gone(browser):
    with service(TakesRed()) as (host, port):
        page = browser.new_page()
        page.goto(f'http://{host}:{port}/')
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#status.error')
    assert page.inner_text('#status') == 'The service cannot be reached. Is it still running?'
    page.close()


def test_several_files(page):
    broken = {'name': 'broken.png', 'mimeType': 'image/png', 'buffer': b'no image'}
    good = [{'name': name, 'mimeType': 'image/png', 'buffer': encode(RGB)} for name in ('a.png', 'b.png')]
    page.set_input_files('#file', [good[0], broken, good[1]])
    page.wait_for_selector('#status.error')
    assert '1 of 3 images failed' in page.inner_text('#status')
    assert [line.strip() for line in page.locator('#files button').all_inner_texts()] == [
        '✓ a.png', '✗ broken.png', '✓ b.png',
    ]  # fmt: skip
    assert page.get_attribute('#download', 'download') == 'a-cutout.png'
    page.locator('#files button').nth(1).press('Enter')
    page.wait_for_selector('#result[hidden]', state='attached')
    assert 'broken.png: not an image' in page.inner_text('#status')
    page.locator('#files button').nth(2).press('Enter')
    page.wait_for_selector('#result:not([hidden])')
    assert page.get_attribute('#download', 'download') == 'b-cutout.png'


def test_an_image_as_background(page):
    page.select_option('#background', 'image')
    page.set_input_files('#file', {'name': 'a.png', 'mimeType': 'image/png', 'buffer': encode(RGB)})
    assert page.inner_text('#status') == 'Choose the image for the background.'
    green = encode(np.full_like(RGB, (0, 200, 0)))
    page.set_input_files('#behind', {'name': 'green.png', 'mimeType': 'image/png', 'buffer': green})
    page.wait_for_selector('#result:not([hidden])')
    page.eval_on_selector('#slider', "e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    assert np.abs(shown(page)(20, 20) - (0, 200, 0)).max() < 10


def test_page_works_with_the_keyboard_only(page):
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'file'
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Enter')
    chooser.value.set_files({'name': 'a.png', 'mimeType': 'image/png', 'buffer': encode(RGB)})
    page.wait_for_selector('#result:not([hidden])')
    page.focus('#slider')
    page.keyboard.press('ArrowRight')
    assert page.eval_on_selector('#compare', "e => e.style.getPropertyValue('--split')") == '51%'
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'download'


def test_all_as_a_zip(page, tmp_path):
    files = [{'name': name, 'mimeType': 'image/png', 'buffer': encode(RGB)} for name in ('ä.png', 'b.jpg', 'b.png')]
    page.set_input_files('#file', files[:1])
    page.wait_for_selector('#result:not([hidden])')
    assert page.is_hidden('#download-all')
    page.set_input_files('#file', files)
    page.wait_for_selector('#status:has-text("Done in")')
    with page.expect_download() as download:
        page.click('#download-all')
    assert download.value.suggested_filename == 'mmbirefnet.zip'
    download.value.save_as(tmp_path / 'all.zip')
    soft_map = BiRefNetInferencer(backend=TakesRed()).predict_image(LoadedImage(RGB))
    expected = cut_out(LoadedImage(RGB), soft_map)
    with zipfile.ZipFile(tmp_path / 'all.zip') as archive:
        assert archive.namelist() == ['ä-cutout.png', 'b-cutout.png', 'b-cutout-2.png']
        assert archive.testzip() is None  # checks the CRCs
        for name in archive.namelist():
            np.testing.assert_array_equal(Image.open(io.BytesIO(archive.read(name))), expected)


def test_zoom_and_pan(page):
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#result:not([hidden])')
    fitted = page.locator('#after').bounding_box()
    for _ in range(4):
        page.press('#zoom-in', 'Enter')
    assert page.inner_text('#zoom') == '400 %'
    zoomed = page.locator('#after').bounding_box()
    assert zoomed['width'] == pytest.approx(4 * fitted['width'], rel=0.01)
    assert zoomed['height'] == pytest.approx(4 * fitted['height'], rel=0.01)
    view = page.locator('#view').bounding_box()
    x, y = view['x'] + view['width'] / 2, view['y'] + view['height'] / 2
    before = page.evaluate("[$('view').scrollLeft, $('view').scrollTop]")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y - 20, steps=3)
    page.mouse.up()
    after = page.evaluate("[$('view').scrollLeft, $('view').scrollTop]")
    np.testing.assert_allclose(np.subtract(after, before), (30, 20), atol=1)
    page.press('#zoom-fit', 'Enter')
    assert page.locator('#after').bounding_box()['width'] == pytest.approx(fitted['width'], abs=1)
    box = page.locator('#compare').bounding_box()  # at this size dragging moves the line between before and after
    page.mouse.move(box['x'] + box['width'] / 2, box['y'] + 50)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] / 4, box['y'] + 50)
    page.mouse.up()
    assert page.input_value('#slider') == '25'


def test_crop_shows_the_same_part_before_and_after(page):
    page.check('#crop')
    drop(page, 'square.png', encode(RGB))
    page.wait_for_selector('#result:not([hidden])')
    sizes = page.evaluate("['after', 'before'].map(id => [$(id).naturalWidth, $(id).naturalHeight])")
    rows, columns = box_of_object(BiRefNetInferencer(backend=TakesRed()).predict_image(LoadedImage(RGB)), 0.05)
    assert sizes[0] == sizes[1] == [columns.stop - columns.start, rows.stop - rows.start]
    with page.expect_download() as download:  # pixels of the image before are those inside the box
        page.evaluate(
            "() => { const link = document.createElement('a'); link.href = $('before').src; link.download = 'b.png';"
            ' link.click(); }'
        )
    np.testing.assert_array_equal(Image.open(download.value.path()).convert('RGB'), RGB[rows, columns])


class TakesBlue(TakesRed):
    def __call__(self, images):
        return (images[..., 2] > 128).astype(np.float32)


def test_choice_of_a_model(browser):
    models = {'red': BiRefNetInferencer(backend=TakesRed()), 'blue': BiRefNetInferencer(backend=TakesBlue())}
    with service(models) as (host, port):
        page = browser.new_page(viewport={'width': 900, 'height': 800})
        page.goto(f'http://{host}:{port}/')
        page.wait_for_selector('#model-option:not([hidden])')
        assert page.locator('#model option').all_inner_texts() == ['red', 'blue']
        page.select_option('#model', 'blue')
        page.select_option('#background', 'black')
        drop(page, 'square.png', encode(RGB))
        page.wait_for_selector('#result:not([hidden])')
        page.eval_on_selector('#slider', "e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
        at = shown(page)
        assert at(90, 70).max() < 12
        assert np.abs(at(20, 20) - (20, 30, 200)).max() < 12
        page.close()


def test_page_requests_only_its_own_server(browser):
    with service() as (host, port):
        page = browser.new_page()
        urls = []
        page.on('request', lambda request: urls.append(request.url))
        page.goto(f'http://{host}:{port}/')
        drop(page, 'square.png', encode(RGB))
        page.wait_for_selector('#result:not([hidden])')
        page.close()
    assert {
        url for url in urls if not url.startswith((f'http://{host}:{port}/', f'blob:http://{host}:{port}/'))
    } == set()
    assert len(urls) > 2


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 360])
def test_accessibility(browser, scheme, width):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='needs axe-playwright-python')
    with service(options=dict(api_key='secret')) as (host, port):
        page = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
        page.goto(f'http://{host}:{port}/')
        reports = {'start': axe.Axe().run(page)}
        drop(page, 'square.png', encode(RGB))
        page.wait_for_selector('#status.error')
        reports['error'] = axe.Axe().run(page)
        page.fill('#key', 'secret')
        files = [{'name': name, 'mimeType': 'image/png', 'buffer': encode(RGB)} for name in ('a.png', 'b.png')]
        page.set_input_files('#file', files)
        page.wait_for_selector('#status:has-text("Done in")')
        page.press('#zoom-in', 'Enter')
        reports['result'] = axe.Axe().run(page)
        page.close()
    for state, report in reports.items():
        assert report.violations_count == 0, f'{state}: {report.generate_report()}'
        assert len(report.response['passes']) > 10


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.soak(keep=1)
def test_page_fits_a_phone(browser, scheme):
    with service() as (host, port):
        page = browser.new_page(viewport={'width': 320, 'height': 640}, color_scheme=scheme)
        page.goto(f'http://{host}:{port}/')
        page.select_option('#background', 'image')
        page.select_option('#background', '')
        page.set_input_files('#file', {'name': 'a' * 80 + '.png', 'mimeType': 'image/png', 'buffer': encode(RGB)})
        page.wait_for_selector('#result:not([hidden])')
        assert page.evaluate('document.documentElement.scrollWidth') <= 320
        corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert('L'))[0, 0]
        assert corner > 240 if scheme == 'light' else corner < 40
        page.close()


@pytest.mark.soak
def test_page_asks_for_the_api_key(browser):
    with service(options=dict(api_key='secret')) as (host, port):
        page = browser.new_page()
        page.goto(f'http://{host}:{port}/')
        drop(page, 'square.png', encode(RGB))
        page.wait_for_selector('#status.error')
        assert 'asks for an API key' in page.inner_text('#status')
        page.fill('#key', 'secret')
        page.keyboard.press('Tab')
        page.wait_for_selector('#result:not([hidden])')
        page.close()
