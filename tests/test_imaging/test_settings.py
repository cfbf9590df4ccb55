import pytest

from mmbirefnet.apis import Settings


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, [(256, 512)]),
        ({'input_size': 128}, [(128, 128)]),
        ({'input_size': (64, 96)}, [(64, 96)]),
        ({'scales': (0.5, 1, 1.4)}, [(128, 256), (256, 512), (352, 704)]),  # 358.4 -> 352, 716.8 -> 704
        ({'input_size': 'image'}, [(704, 992)]),  # 700 / 32 = 21.9, 1000 / 32 = 31.25
        ({'input_size': 'image', 'max_size': 500}, [(352, 512)]),  # 350 x 500
        ({'input_size': 'image', 'max_size': 32}, [(32, 32)]),
    ],
)
def test_sizes(options, expected):
    sizes = Settings(**options).sizes((700, 1000), (256, 512))
    assert sizes == expected


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        ((600, 1000), (608, 992)),
        ((3000, 4608), (1504, 2304)),  # halved
        ((100, 200), (256, 512)),  # enlarged until the shorter side fits
        ((100, 4000), (256, 2304)),  # no scale fits both sides
        ((256, 2304), (256, 2304)),
    ],
)
def test_dynamic_models_run_at_the_size_of_the_image(image, expected):
    assert Settings().sizes(image, (1024, 1024), (256, 2304)) == [expected]
    assert Settings(input_size=512).sizes(image, (1024, 1024), (256, 2304)) == [(512, 512)]
    assert max(Settings(max_size=512).sizes(image, (1024, 1024), (256, 2304))[0]) <= 512


@pytest.mark.parametrize(
    'options',
    [
        {'input_size': 100},
        {'input_size': 0},
        {'input_size': (64, 65)},
        {'input_size': 'huge'},
        {'input_size': (64, 64, 64)},
        {'max_size': 16},
        {'batch_size': 0},
        {'scales': ()},
        {'scales': (1, -1)},
        {'box': (0, 0, 0, 5)},
        {'box': (1, 2, 3)},
        {'margin': -0.1},
        {'threshold': 1},
        {'min_area': -1},
        {'levels': (0.5, 0.5)},
        {'levels': (0, 1.1)},
        {'grow': 501},
        {'grow': 1.5},
        {'feather': -1},
        {'feather': float('nan')},
        {'input_size': 1.5},
        {'input_size': 2**20},
        {'input_size': True},
        {'max_size': float('inf')},
        {'batch_size': 10**20},
        {'batch_size': '2'},
        {'scales': 1.0},
        {'scales': 'abc'},
        {'box': (0, 0, float('inf'), 9)},
        {'box': (0, 0, 1.7e308, 9)},
        {'box': 'left'},
        {'margin': float('inf')},
        {'margin': None},
        {'threshold': 'half'},
        {'min_area': float('inf')},
        {'levels': (0, None)},
        {'levels': 0.5},
        {'feather': 'soft'},
        {'flip': 'no'},
        {'invert': None},
    ],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options)) + '=.*must be'):
        Settings(**options)
