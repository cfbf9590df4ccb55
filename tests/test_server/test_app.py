"""The service's answers, with a back end that takes red for the object."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from red import TakesRed, red_square

from mmbirefnet import remove_background
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.maps import process_map
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits

RGB, INSIDE = red_square()


@pytest.fixture(scope='module')
def client():
    limits = Limits(upload_bytes=200_000, megapixels=0.1, input_size=128, work=1)
    with TestClient(create_app(BiRefNetInferencer(backend=TakesRed()), limits)) as client:
        yield client


def encode(pixels, format='PNG', **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def post(client, content=None, name='square.png', **fields):
    files = {'file': (name, encode(RGB) if content is None else content)}
    for field, file in (('background_file', 'behind.png'), ('mask', 'mask.png'), ('guide', 'guide.png')):
        if field in fields:
            files[field] = (file, fields.pop(field))
    return client.post('/api/cut', files=files, data={key: str(value) for key, value in fields.items()})


def decode(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize('estimate', [True, False])
def test_cutout(client, estimate):
    answer = post(client, estimate_foreground=estimate)
    np.testing.assert_array_equal(decode(answer), cut_out(LoadedImage(RGB), INSIDE, estimate))
    assert answer.headers['content-type'] == 'image/png'
    assert answer.headers['content-disposition'] == "inline; filename*=UTF-8''square-cutout.png"


def test_mask(client):
    np.testing.assert_array_equal(decode(post(client, output='mask')), (255 * INSIDE).astype(np.uint8))


def test_composite_on_a_color_and_on_an_image(client):
    image = decode(post(client, output='composite', background='#00ff10'))
    np.testing.assert_array_equal(image[0, 0], (0, 255, 16))
    np.testing.assert_array_equal(image[INSIDE > 0], np.broadcast_to((220, 20, 30), (int(INSIDE.sum()), 3)))
    former = post(client, output='foreground', background='#00ff10')
    np.testing.assert_array_equal(decode(former), image)
    assert former.headers['content-disposition'].endswith('square-foreground.png')
    behind = encode(np.full((30, 40, 3), (7, 8, 9), np.uint8))
    np.testing.assert_array_equal(decode(post(client, output='composite', background_file=behind))[0, 0], (7, 8, 9))


@pytest.mark.parametrize(
    ('format', 'output', 'kind'),
    [('webp', 'cutout', 'WEBP'), ('webp', 'mask', 'WEBP'), ('jpg', 'composite', 'JPEG'), ('jpg', 'mask', 'JPEG')],
)
def test_formats(client, format, output, kind):
    answer = post(client, format=format, output=output)
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == (kind, RGB.shape[1::-1])
    assert answer.headers['content-disposition'].endswith(f'square-{output}.{format}')


def test_options_of_the_prediction(client):
    mask = decode(post(client, output='mask', box='0,0,48,96'))
    assert mask[30, 40] == 255
    assert mask[30, 50] == 0
    assert decode(post(client, output='mask', min_area=INSIDE.sum() + 1)).max() == 0
    assert decode(post(client, output='mask', min_area=0.01, flip=True, threshold=0.5, size=96)).max() == 255


@pytest.mark.parametrize(
    ('fields', 'settings'),
    [
        (dict(levels='0.2,0.7'), dict(levels=(0.2, 0.7))),
        (dict(grow=3), dict(grow=3)),
        (dict(grow=-3), dict(grow=-3)),
        (dict(feather=2.5), dict(feather=2.5)),
        (dict(invert=True), dict(invert=True)),
        (dict(grow=2, feather=1), dict(grow=2, feather=1)),
    ],
)
def test_operations_on_the_mask(client, fields, settings):
    expected = process_map(INSIDE.copy(), Settings(**settings))
    np.testing.assert_array_equal(decode(post(client, output='mask', **fields)), (expected * 255).astype(np.uint8))


def test_components_and_holes(client):
    rgb = RGB.copy()
    rgb[2:6, 2:6] = (220, 20, 30)
    rgb[30:34, 40:44] = (20, 30, 200)
    expected = (255 * INSIDE).astype(np.uint8)
    mask = decode(post(client, encode(rgb), output='mask', largest=True, fill_holes=True))
    np.testing.assert_array_equal(mask, expected)


class RedLevel(TakesRed):
    """Alpha is the red channel of the resized image, so that it depends on the input size, scales and tiles."""

    input_size = (64, 96)

    def __call__(self, images):
        return images[..., 0].astype(np.float32) / 255


@pytest.fixture(scope='module')
def red_level():
    inferencer = BiRefNetInferencer(backend=RedLevel())
    with TestClient(create_app(inferencer, Limits(input_size=512))) as client:
        yield inferencer, client


@pytest.fixture(scope='module')
def textured():
    rng = np.random.default_rng(3)
    rgb = np.kron(rng.integers(0, 256, (20, 24, 3), np.uint8), np.ones((6, 8, 1), np.uint8))
    rgb[..., 0] //= 4
    rgb[40:80, 60:120, 0] += 150
    return rgb


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(input_size='image'),
        dict(input_size='image', max_size=160),
        dict(input_size=(96, 64)),
        dict(scales=(0.5, 1.0, 1.5)),
        dict(tile=64),
        dict(tile=96, tile_overlap=64, flip=True),
        dict(two_pass=True, margin=0.2),
        dict(refine='guided'),
        dict(refine='guided', levels=(0.1, 0.8), box=(40, 20, 130, 100), grow=1, feather=0.7),
    ],
)
def test_options_as_in_python(red_level, textured, options):
    inferencer, client = red_level
    expected = np.asarray(remove_background(textured, inferencer, **options))
    fields = {
        {'input_size': 'size'}.get(name, name): value if not isinstance(value, tuple)
        else ('x' if name == 'input_size' else ',').join(map(str, value))
        for name, value in options.items()
    }  # fmt: skip
    np.testing.assert_array_equal(decode(post(client, encode(textured), **fields)), expected)
    if options:
        assert (expected != np.asarray(remove_background(textured, inferencer))).any()


@pytest.mark.parametrize(
    'options', [{}, dict(invert=True), dict(refine='guided'), dict(box=(40, 20, 100, 90), feather=1.5)]
)
def test_mask_in_place_of_the_model(client, options):
    mask = np.zeros((48, 64), np.uint8)  # half the size of the image
    mask[10:30, 20:40] = 255
    expected = np.asarray(remove_background(RGB, mask=mask, **options))
    fields = {name: value if name != 'box' else ','.join(map(str, value)) for name, value in options.items()}
    np.testing.assert_array_equal(decode(post(client, mask=encode(mask), **fields)), expected)


def test_crop(client):
    answer = post(client, crop=0.25)
    # The square is at (32, 24) to (64, 48); a quarter of its sides is 8 and 6 pixels.
    assert answer.headers['x-crop-box'] == '24,18,72,54'
    whole = cut_out(LoadedImage(RGB), INSIDE)
    np.testing.assert_array_equal(decode(answer), whole[18:54, 24:72])
    assert 'x-crop-box' not in post(client).headers
    empty = post(client, encode(np.zeros((40, 30, 3), np.uint8)), crop=0, output='mask')
    assert empty.headers['x-crop-box'] == '0,0,30,40'
    assert decode(post(client, crop=1e308, output='mask')).shape == RGB.shape[:2]


def test_orientation_and_profile(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    profile = b'\0' * 16 + b'RGB ' + b'\0' * 108
    answer = post(client, encode(RGB, 'JPEG', exif=exif, icc_profile=profile, quality=95))
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (96, 128)
    assert image.info['icc_profile'] == profile
    mask = decode(post(client, encode(RGB, 'PNG', exif=exif), output='mask'))
    np.testing.assert_array_equal(mask > 127, np.rot90(INSIDE, -1) > 0)  # resized on the way


def bomb(width, height):
    """A PNG of a few bytes whose header announces that size."""
    head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = b''
    for chunk in (head, b'IDAT' + zlib.compress(b'\0')):
        chunks += struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return b'\x89PNG\r\n\x1a\n' + chunks


@pytest.mark.parametrize(
    ('content', 'fields', 'status', 'message'),
    [
        (b'', {}, 400, 'square.png: not an image that can be read'),
        (b'<html></html>', {}, 400, 'square.png: not an image that can be read'),
        (encode(RGB)[:150], {}, 400, 'square.png: '),
        (encode(RGB)[:-40], {}, 400, 'square.png: '),
        (encode(np.zeros((400, 300), np.uint8)), {}, 413, '300x400 pixels, more than the limit of 100000'),
        (bomb(60_000, 60_000), {}, 413, 'square.png: '),
        (bomb(9_000, 9_000), {}, 413, '9000x9000 pixels'),
        (b'\0' * 300_000, {}, 413, 'too large: at most 200000 bytes are accepted'),
        (None, {'format': 'jpg'}, 400, 'format=jpg has no alpha'),
        (None, {'size': 100}, 400, "size='100' must be image, or pixels or HEIGHTxWIDTH in multiples of 32"),
        (None, {'size': 160}, 400, 'size=160, must be at most 128'),
        (None, {'box': '1,2,3'}, 400, 'box='),
        (None, {'box': 'a,b,c,d'}, 400, "box='a,b,c,d', must be"),
        (None, {'box': '500,500,600,600'}, 400, 'lies outside the image'),
        (None, {'box': 'nan,0,inf,9'}, 400, 'box='),
        (None, {'box': '0,0,1.7e308,9'}, 400, 'box='),
        (None, {'box': '-1e300,0,9,9'}, 400, 'box='),
        (None, {'min_area': 'nan'}, 400, 'min_area=nan'),
        (None, {'threshold': 'nan'}, 400, 'threshold=nan'),
        (None, {'size': 10**30}, 400, "size='1000000000000000000000000000000' must be image"),
        (None, {'size': '96x160'}, 400, 'size=96x160, must be at most 128'),
        (None, {'max_size': 160}, 400, 'max_size=160, must be at most 128'),
        (None, {'tile': 160}, 400, 'tile=160, must be at most 128'),
        (None, {'tile': 100}, 400, 'tile=100, must be'),
        (None, {'tile_overlap': 32}, 400, 'tile_overlap=32, must be'),
        (None, {'scales': '0.5,x'}, 400, "scales='0.5,x', must be numbers"),
        (
            None,
            {'scales': '1,2'},
            400,
            'the model input would be 192x256 (height x width); the service allows sides up',
        ),
        (
            None,
            {'scales': ','.join(['0.25'] * 16)},
            413,
            'needs 1.0 megapixels of model input; the service allows 1 per',
        ),
        (None, {'tile': 64, 'tile_overlap': 32, 'size': 128, 'flip': True}, 413, '--max-work'),
        (None, {'mask': b'no image'}, 400, 'mask.png: not an image'),
        (None, {'mask': encode(RGB[:50])}, 400, 'mask.png: a mask of 128x50 pixels does not fit square.png of 128x96'),
        (None, {'mask': encode(RGB), 'model': 'red'}, 400, 'mask is used instead of a model'),
        (None, {'levels': '0.5'}, 400, "levels='0.5', must be numbers: 'low,high'"),
        (None, {'levels': '0.9,0.1'}, 400, 'levels='),
        (None, {'levels': 'nan,1'}, 400, 'levels='),
        (None, {'grow': 21}, 400, 'grow=21, must be at most 20 pixels'),
        (None, {'grow': -(10**30)}, 400, 'grow='),
        (None, {'feather': 500}, 400, 'feather=500, must be at most 20 pixels'),
        (None, {'feather': 'nan'}, 400, 'feather=nan'),
        (None, {'feather': -1}, 400, 'feather=-1'),
        (None, {'crop': 'inf'}, 400, 'crop=inf, must be finite'),
        (None, {'crop': 'nan'}, 400, 'crop=nan, must be finite'),
        (None, {'crop': -0.1}, 400, 'crop=-0.1, must be finite'),
        (None, {'margin': 'nan'}, 400, 'margin=nan'),
        (None, {'background': 'rgb(999,0,0)', 'output': 'composite'}, 400, 'out of range'),
        (None, {'background': '#ff000080', 'output': 'composite'}, 400, 'is not opaque'),
        (None, {'model': 'other'}, 400, "model='other', must be one of red"),
        (None, {'threshold': 2}, 400, 'threshold=2.0'),
        (
            None,
            {'background': '/etc/hostname', 'output': 'composite'},
            400,
            'neither a color',
        ),
        (None, {'background_file': b'no image'}, 400, 'behind.png: not an image'),
        (None, {'output': 'all'}, 422, 'cutout'),
        (None, {'size': 'big'}, 400, "size='big' must be image"),
        (None, {'refine': 'closed-form'}, 422, 'guided'),
        (None, {'tile': 'big'}, 422, 'integer'),
    ],
)
def test_errors(client, content, fields, status, message):
    answer = post(client, content, **fields)
    assert answer.status_code == status
    assert message in answer.json()['detail'] if status != 422 else message in answer.text


@pytest.mark.parametrize('name', ['../../etc/passwd.png', '/etc/passwd', '..\\..\\boot.ini', 'a\x01"; x=y.png', '..'])
def test_uploaded_names_lead_to_no_path(client, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    disposition = post(client, name=name).headers['content-disposition']
    assert re.fullmatch(r"inline; filename\*=UTF-8''[\w.%-]+-cutout\.png", disposition)
    assert '%2F' not in disposition
    assert not list(tmp_path.iterdir())


def test_without_a_file_and_other_methods(client):
    assert client.post('/api/cut').status_code == 422
    assert client.post('/api/cut', json={}).status_code == 422
    assert client.get('/api/cut').status_code == 405
    assert client.get('/page.html').status_code == 404
    assert client.get('/%2e%2e/%2e%2e/etc/passwd').status_code == 404


def test_image_as_a_form_field_is_not_repeated(client):
    for size in (1000, 150_000):
        answer = client.post('/api/cut', data={'file': 'x' * size})
        assert answer.status_code == 422
        assert answer.json()['detail'] == 'file: send the image as a file, as curl -F file=@photo.jpg does'


@pytest.mark.parametrize(('format', 'size'), [('webp', (16384, 4)), ('jpg', (65501, 1))])
def test_sides_that_a_format_cannot_hold(client, format, size):
    content = encode(np.zeros(size, np.uint8))
    answer = post(client, content, format=format, output='mask')
    assert answer.status_code == 400
    assert f'{size[1]}x{size[0]} pixels; format={format} allows sides up to {size[0] - 1}' in answer.text
    assert decode(post(client, content, output='mask')).shape == size


@pytest.mark.parametrize('charset', ['punycode', 'idna', 'unicode_escape', 'utf-7', 'utf-16', 'no such', ''])
def test_other_charsets_are_refused_before_parsing(client, charset):
    body = b'--x\r\nContent-Disposition: form-data; name="background"\r\n\r\n' + b'a' * 150_000 + b'\r\n--x--\r\n'
    kind = f'multipart/form-data; boundary=x; charset="{charset}"'
    answer = client.post('/api/cut', content=body, headers={'Content-Type': kind})
    assert answer.status_code == 400
    assert 'forms must be in UTF-8 or Latin-1' in answer.json()['detail']


def test_form_in_latin_1(client):
    head = '--x\r\nContent-Disposition: form-data; name="file"; filename="caf\xe9.png"\r\n\r\n'.encode('latin-1')
    kind = {'Content-Type': 'multipart/form-data; boundary=x; charset=ISO-8859-1'}
    answer = client.post('/api/cut', content=head + encode(RGB) + b'\r\n--x--\r\n', headers=kind)
    assert answer.headers['content-disposition'] == "inline; filename*=UTF-8''caf%C3%A9-cutout.png"


class TakesBlue(TakesRed):
    name = 'blue'

    def __call__(self, images):
        return (images[..., 2] > 128).astype(np.float32)


class TakesGuide(TakesRed):
    """The object is what the coarse mask covers; without one, nothing."""

    takes_guide = True

    def __call__(self, images):
        return images[..., 3] / np.float32(255) if images.shape[3] == 4 else np.zeros(images.shape[:3], np.float32)


def test_coarse_mask_for_a_model_with_guidance(client):
    guide = np.zeros((48, 64), np.uint8)  # half the size of the image
    guide[10:30, 20:40] = 255
    inferencer = BiRefNetInferencer(backend=TakesGuide())
    expected = np.asarray(remove_background(RGB, inferencer, guide=guide))
    assert 0 < (expected[..., 3] > 0).sum() < expected[..., 3].size
    with TestClient(create_app(inferencer)) as guided:
        np.testing.assert_array_equal(decode(post(guided, guide=encode(guide))), expected)
        assert decode(post(guided, output='mask')).max() == 0
        answer = post(guided, guide=encode(guide), mask=encode(guide))
        assert (answer.status_code, 'Fix: send only one of them' in answer.text) == (400, True)
        assert post(guided, guide=b'no image').status_code == 400
    answer = post(client, guide=encode(guide))
    assert (answer.status_code, 'takes no coarse mask' in answer.text) == (400, True)


def test_several_models():
    models = {'red': BiRefNetInferencer(backend=TakesRed()), 'blue': BiRefNetInferencer(backend=TakesBlue())}
    with TestClient(create_app(models)) as client:
        assert client.get('/api/health').json()['models'] == ['red', 'blue']
        sizes = {'input_height': 96, 'input_width': 128}
        assert client.get('/models').json() == {
            'default': 'red',
            'models': [{'name': 'red', **sizes}, {'name': 'blue', **sizes}],
        }
        mask = (255 * INSIDE).astype(np.uint8)
        np.testing.assert_array_equal(decode(post(client, output='mask')), mask)
        np.testing.assert_array_equal(decode(post(client, output='mask', model='blue')), 255 - mask)
    with pytest.raises(ValueError, match='at least one model'):
        create_app({})
    with pytest.raises(ValueError, match='1 and 2 copies'):
        create_app({'red': models['red'], 'blue': [models['blue']] * 2})


@pytest.mark.parametrize('origin', ['https://b.example/', 'b.example', 'null', ''])
def test_origins_are_checked(origin):
    with pytest.raises(ValueError, match='is not an origin'):
        create_app(BiRefNetInferencer(backend=TakesRed()), cors=[origin])


def test_hosts_origins_and_keys():
    inferencer = BiRefNetInferencer(backend=TakesRed())
    options = dict(allowed_hosts=['a.example'], cors=['https://b.example'], api_key='secret')
    with TestClient(create_app(inferencer, **options), base_url='http://a.example') as client:
        files = {'file': encode(RGB)}
        key = {'Authorization': 'Bearer secret'}
        for headers, status in (
            ({}, 401),
            ({'X-API-Key': 'wrong'}, 401),
            ({'Authorization': 'Bearer caf\u00e9'.encode('latin-1')}, 401),
            ({'X-API-Key': 'secret'}, 200),
            (key, 200),
            (key | {'Host': 'a.example:8000'}, 200),
            (key | {'Host': 'b.example'}, 400),
            (key | {'Origin': 'http://a.example'}, 200),
            (key | {'Origin': 'https://b.example'}, 200),
            (key | {'Origin': 'https://c.example'}, 403),
            (key | {'Origin': 'null'}, 403),
        ):
            answer = client.post('/api/cut', files=files, headers=headers)
            assert answer.status_code == status, (headers, answer.text)
            assert answer.headers['x-content-type-options'] == 'nosniff'
        assert client.get('/metrics').status_code == 401
        assert client.get('/').status_code == client.get('/api/health').status_code == 200
        allowed = {'Origin': 'https://b.example', 'Access-Control-Request-Method': 'POST'}
        asked = client.options('/api/cut', headers=allowed | {'Access-Control-Request-Headers': 'Authorization'})
        assert asked.headers['access-control-allow-origin'] == 'https://b.example'
        # A page can read why it was refused.
        refused = client.post('/api/cut', files=files, headers={'Origin': 'https://b.example'})
        assert (refused.status_code, refused.headers['access-control-allow-origin']) == (401, 'https://b.example')


def test_request_ids(client, caplog):
    caplog.set_level('INFO', 'mmbirefnet.server')
    answer = client.post('/api/cut', files={'file': encode(RGB)}, headers={'X-Request-ID': 'mine-1'})
    assert answer.headers['x-request-id'] == 'mine-1'
    assert re.search(r'^mine-1 testclient 200 [\d.]+ s$', caplog.messages[-1])
    names = [client.get('/', headers={'X-Request-ID': 'two words'}).headers['x-request-id'] for _ in range(2)]
    assert names[0] != names[1] != 'two words'


def test_metrics():
    with TestClient(create_app(BiRefNetInferencer(backend=TakesRed()))) as client:
        for content in (encode(RGB), b'no image', encode(RGB)):
            post(client, content)
        lines = client.get('/metrics').text.splitlines()
    for line in (
        'mmbirefnet_requests_total{status="200"} 2',
        'mmbirefnet_requests_total{status="400"} 1',
        'mmbirefnet_request_seconds_count 3',
        'mmbirefnet_predicted_images_total 2',
        'mmbirefnet_under_way 0',
        'mmbirefnet_memory_taken_bytes 0',
    ):
        assert line in lines
    assert all(re.fullmatch(r'(# (HELP|TYPE) .+|[a-z_]+(\{status="\d+"\})? [\d.e+]+)', line) for line in lines)


def test_description_and_health(client):
    description = client.get('/openapi.json').json()
    answers = description['paths']['/api/cut']['post']['responses']
    assert {'200', '400', '401', '403', '408', '413', '422', '429', '503'} == set(answers)
    assert set(answers['200']['content']) == {'image/png', 'image/webp', 'image/jpeg'}
    assert client.get('/api/health').json()['model'] == 'red'


def test_page_takes_nothing_from_elsewhere(client):
    answer = client.get('/')
    assert answer.headers['content-type'].startswith('text/html')
    assert "default-src 'none'" in answer.headers['content-security-policy']
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert client.get('/docs').status_code == client.get('/redoc').status_code == 404


def test_limits_must_be_positive():
    for bad in (dict(queue=0), dict(upload_seconds=float('inf')), dict(megapixels=float('nan'))):
        with pytest.raises(ValueError, match=f'{next(iter(bad))}=.*, must be more than 0 and finite'):
            Limits(**bad)
    with pytest.raises(ValueError, match='memory=512 MiB, must be at least'):
        Limits(memory=2**29)
