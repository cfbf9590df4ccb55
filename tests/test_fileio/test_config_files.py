"""Options as they are typed, and configs."""

import argparse
import random
import string
from pathlib import Path

import pytest
from mmengine.config import Config
from tool_module import load_tool

from mmbirefnet.fileio.configs import ConfigOptions, check_options, parse_value, read_config

ROOT = Path(__file__).parents[2]
TEXT = [
    '/my set',
    '/my, set',
    "/data/it's",
    "/data/it's, x",
    '/a [b] (c)',
    '(a) and (b)',
    '[set] 1',
    'my set, two',
    'plain',
    '',
    ' lead and trail ',
    '[1',
    "it's",
    'a="b"',
    '/data/ünïcode',
    'dict(type="BN")',
]


@pytest.mark.parametrize('text', TEXT)
def test_text_stays_as_typed(text):
    assert parse_value(text) == text


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1', 1),
        ('-2', -2),
        ('1e-3', 0.001),
        ('true', True),
        ('False', False),
        ('None', None),
        ('none', 'none'),
        ("'1'", '1'),
        ('"a, b"', 'a, b'),
        ('a,b', ['a', 'b']),
        ('1, 2', [1, 2]),
        ('a,', ['a']),
        ('DIS-TE1,DIS-TE2', ['DIS-TE1', 'DIS-TE2']),
        ('[a, b]', ['a', 'b']),
        ('[]', []),
        ('()', ()),
        ('{}', {}),
        ('(1)', (1,)),
        ('[(1, 2, 3), [a, b], c]', [(1, 2, 3), ['a', 'b'], 'c']),
        ('[1,2],[3,4]', [[1, 2], [3, 4]]),
        ("['/x, y', \"it's\", /a b/c]", ['/x, y', "it's", '/a b/c']),
        ("{'type': 'mmbirefnet.Resize', scale: (64, 32), 'a': {b: None}}",
         {'type': 'mmbirefnet.Resize', 'scale': (64, 32), 'a': {'b': None}}),
    ],
)  # fmt: skip
def test_parse_value_of_python_literals(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize('text', ['007', 'a,b', 'true', '[1, 2]', '1e3', *TEXT])
def test_paths_are_text_whatever_they_look_like(text):
    assert parse_value(text, is_path=True) == text
    assert parse_value('"a, b"', is_path=True) == 'a, b'


def test_values_written_by_python_are_read_back():
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + ' ,./-_()[]{}:#='

    def draw(depth):
        kind = rng.randrange(7 if depth else 4)
        if kind < 2:
            return ''.join(rng.choices(letters, k=rng.randrange(8)))
        if kind < 4:
            return rng.choice([rng.randrange(-99, 99), rng.random(), True, False, None])
        if kind == 4:
            return {draw_key(): draw(depth - 1) for _ in range(rng.randrange(3))}
        return (list if kind == 5 else tuple)(draw(depth - 1) for _ in range(rng.randrange(4)))

    def draw_key():
        return ''.join(rng.choices(string.ascii_letters, k=5))

    for _ in range(2000):
        value = draw(3)
        assert parse_value(repr(value)) == value


def parse(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


def test_options():
    words = ['data_root=a, b', 'load_from=1', 'x.output_dir=c,d', 'default_hooks.checkpoint={a: 1}', 'a=b=c', 'a=2']
    assert parse(*words) == {
        'data_root': 'a, b',
        'load_from': '1',
        'x.output_dir': 'c,d',
        'default_hooks.checkpoint': {'a': 1},
        'a': 2,
    }


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('set', "--cfg-options: expected KEY=VALUE, found 'set'"),
        ('=1', "found '=1'"),
        ('a=' + '[' * 2000 + ']' * 2000, 'a is nested too deeply'),
    ],
)
def test_malformed_options_are_rejected(word, message, capsys):
    with pytest.raises(SystemExit):
        parse(word)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('folder', ["it's", 'my set', 'a, b', 'quote "x"', '$HOME {{x}}', 'back\\slash'])
@pytest.mark.soak(keep=2)
def test_any_data_root_from_the_environment(monkeypatch, folder):
    monkeypatch.setenv('MMBIREFNET_DATA', f'/data/{folder}')
    for name in (
        'birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py',
        'birefnet/birefnet_swin-t_1xb4-20e_finetune-1024x1024.py',
        'birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py',
        'birefnet_synthetic/birefnet_swin-nano_1xb4-3e_finetune-256x256.py',
    ):
        cfg = read_config(ROOT / 'configs' / name)
        assert cfg.train_dataloader.dataset.data_root == cfg.data_root == f'/data/{folder}'
        assert Config.fromstring(cfg.pretty_text, '.py').data_root == cfg.data_root


def test_all_our_tools_take_options_as_typed(monkeypatch):
    for name in ('train', 'test', 'analysis_tools/benchmark', 'analysis_tools/rank_checkpoints'):
        module = load_tool(ROOT / f'tools/{name}.py')
        words = [
            'tool',
            'config.py',
            *(['checkpoint'] if name == 'test' else []),
            '--cfg-options',
            'data_root=/my, set',
        ]
        monkeypatch.setattr('sys.argv', words)
        parser = module.make_parser() if hasattr(module, 'make_parser') else None
        args = parser.parse_args() if parser else module.parse_args()
        assert args.cfg_options == {'data_root': '/my, set'}


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.yaml', "x: !!python/object/apply:pathlib.Path.write_text [!!python/object/apply:pathlib.Path ['ran'], '']"),
        ('a.yml', 'x: 1'),
        ('a.json', '{"_base_": "b.py"}'),
        ('a', 'x = 1'),
    ],
)
def test_configs_are_python_files(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path('b.py').write_text("__import__('pathlib').Path('ran').touch()")
    Path(name).write_text(content)
    with pytest.raises(ValueError, match=rf'{name}: a config must be a Python file'):
        read_config(name)
    assert not Path('ran').exists()


def test_unknown_option():
    with pytest.raises(ValueError, match='there is no setting train_datalaoder; is it train_dataloader'):
        check_options(Config(), {'train_datalaoder.batch_size': 1})
