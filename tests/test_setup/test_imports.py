"""What imports what: the order of the package's folders, and how little each entry point imports."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pico
import pytest
from mmengine.config import Config
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'mmbirefnet'
# A folder or module imports only from those before it.
ORDER = ['version', 'environment', 'utils', 'fileio', 'imaging', 'registry', 'models', 'zoo', 'deploy', 'datasets']
ORDER += ['evaluation', 'visualization', 'engine', 'apis', 'video', 'integrations', 'server', 'cli']
# Their functions import what they re-export, or set up, when it is asked for.
FACES = ('mmbirefnet', 'mmbirefnet.utils')
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported_modules(path):
    """Modules of this package that a file imports, each with its line."""
    name = module_name(path)
    tree = ast.parse(path.read_text('utf-8'))
    for node in tree.body if name in FACES else ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == '__init__.py' else name.rpartition('.')[0]
            base = importlib.util.resolve_name('.' * node.level + (node.module or ''), package)
            found = [f'{base}.{alias.name}' for alias in node.names] if base == 'mmbirefnet' else [base]
        else:
            continue
        yield from ((each, node.lineno) for each in found if each.startswith('mmbirefnet.'))


def test_all_folders_have_a_place_in_the_order():
    found = {module_name(path).split('.')[1] for path in FILES if path != PACKAGE / '__init__.py'}
    assert found == set(ORDER)


def test_the_architecture_page_has_this_order():
    page = (ROOT / 'docs/en/notes/architecture.md').read_text('utf-8')
    table = page.partition('## The folders')[2].partition('## ')[0]
    names = re.findall(r'`(\w+)(?:/|\.py)`', ''.join(re.findall(r'^\| (`.*?) \|', table, re.MULTILINE)))
    assert names == ORDER


def test_no_import_runs_backwards():
    backwards = []
    for path in FILES:
        _, *own = module_name(path).split('.')
        for imported, line in imported_modules(path):
            other = imported.split('.')[1]
            if other not in ORDER:  # a name that the package itself defines
                continue
            if not own:
                assert other == 'version', f'{path}:{line}'
            elif ORDER.index(other) > ORDER.index(own[0]):
                backwards.append(f'{path.relative_to(ROOT)}:{line}: {own[0]} imports {imported}')
    assert backwards == []


def names_and_exports(path):
    """The variables that a module assigns, and what it imports of its own parts."""
    tree = ast.parse(path.read_text('utf-8'))
    assigned = [
        node.targets[0].id for node in tree.body if isinstance(node, ast.Assign) and hasattr(node.targets[0], 'id')
    ]
    exported = [
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.level for alias in node.names
    ]
    return assigned, exported


def test_all_agrees_with_what_is_exported():
    """Of packages: what they import of their own parts is what they export."""
    for path in FILES:
        assigned, exported = names_and_exports(path)
        if '__all__' not in assigned:
            assert path.name != '__init__.py' or exported == [], path
            continue
        module = importlib.import_module(module_name(path))
        assert len(set(module.__all__)) == len(module.__all__), path
        assert all(hasattr(module, name) for name in module.__all__), path
        if path.name == '__init__.py' and '*' not in exported:
            assert {name for name in exported if hasattr(module, name)} <= set(module.__all__), path


def run_python(code, *paths, **environment):
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, [*paths, ROOT]))} | environment
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(code, modules):
    """Which of ``modules`` are imported after ``code`` was run."""
    output = run_python(f'import sys\n{code}\nprint(*[name for name in {modules.split()} if name in sys.modules])')
    return output.splitlines()[-1].split()


@pytest.mark.parametrize(
    ('code', 'modules'),
    [
        ('import mmbirefnet, mmbirefnet.apis, mmbirefnet.utils', 'numpy cv2 torch mmengine mmcv mmseg'),
        ('from mmbirefnet.cli.main import main', 'numpy cv2 PIL rich torch mmengine mmbirefnet.apis'),
    ],
)
def test_imports_leave_out(code, modules):
    assert imported_by(code, modules) == []


@pytest.mark.soak
def test_the_registry_imports_little_and_adafactor_when_it_is_built(tmp_path):
    (tmp_path / 'transformers.py').write_text(
        'from torch.optim import SGD\n\n\nclass Adafactor(SGD):\n    """Stands for the optimizer of transformers."""\n'
    )
    code = """
import sys
import torch
from mmengine.registry import OPTIMIZERS
import mmbirefnet.registry
modules = 'mmseg timm torchvision transformers torch._dynamo mmpretrain'.split()
print([name for name in modules if name in sys.modules])
optimizer = OPTIMIZERS.build(dict(type='Adafactor', params=[torch.nn.Parameter(torch.ones(1))], lr=0.5))
print(type(optimizer).__name__, optimizer.defaults['lr'], 'transformers' in sys.modules)
"""
    before, *_, after = run_python(code, tmp_path).splitlines()
    assert (before, after) == ('[]', 'Adafactor 0.5 True')


def test_onnx_models_run_without_torch(tmp_path):
    kernel = numpy_helper.from_array(helper.np.ones((1, 3, 1, 1), 'float32'), 'kernel')
    shapes = [('image', [1, 3, 32, 32]), ('logits', [1, 1, 32, 32])]
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph(
        [helper.make_node('Conv', ['image', 'kernel'], ['logits'])], 'g', [image], [logits], [kernel]
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 19)], ir_version=9), tmp_path / 'model.onnx')
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    words = ['cut', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--checkpoint', str(tmp_path / 'model.onnx')]
    code = f'from mmbirefnet.cli.main import main\nassert main({words!r}) == 0'
    assert imported_by(code, 'onnxruntime torch mmengine mmcv mmseg scipy matplotlib') == ['onnxruntime']
    assert Image.open(tmp_path / 'out/a.png').size == (40, 30)


@pytest.mark.soak
def test_checkpoints_run_without_what_only_training_needs(tmp_path):
    """Not imported either: timm and torchvision, which mmseg imports where they are installed, and torch's compiler."""
    (tmp_path / 'pico.py').write_text(pico.CONFIG)
    model = MODELS.build(Config.fromfile(tmp_path / 'pico.py').model)
    write_checkpoint(tmp_path / 'pico.pth', model.state_dict(), {})
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    words = [tmp_path / 'a.png', '-o', tmp_path / 'out', '--config', tmp_path / 'pico.py']
    words += ['--checkpoint', tmp_path / 'pico.pth', '--device', 'cpu']
    code = f'from mmbirefnet.cli.main import main\nassert main({["cut", *map(str, words)]!r}) == 0'
    modules = (
        'torch._dynamo torchvision transformers timm matplotlib mmpretrain mmseg.datasets mmbirefnet.engine onnxruntime'
    )
    assert imported_by(code, modules) == []


# Not train.py: a training is usually alone, and passive waiting slows it, see docs/en/notes/performance.md.
TOOLS = ['test.py', 'export_onnx.py', 'model_converters/birefnet2mmbirefnet.py']
TOOLS += [f'analysis_tools/{name}.py' for name in ('benchmark', 'benchmark_metrics', 'eval_maps', 'rank_checkpoints')]
COMMAND = 'from mmbirefnet.cli.main import main; main(["cut", "a.png", "-o", "out", "--checkpoint", "model.pth"])'


@pytest.mark.parametrize('entry', [*(f'tools/{name}' for name in TOOLS), 'demo/image_demo.py', COMMAND])
@pytest.mark.soak(keep=3)
def test_idle_threads_sleep(entry, tmp_path):
    """The variable is set before torch, which reads it, is imported; a user's own value stays."""
    (tmp_path / 'torch').mkdir()
    (tmp_path / 'torch/__init__.py').write_text(
        'import os\nos.write(1, os.environ["OMP_WAIT_POLICY"].encode())\nos._exit(0)'
    )
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    (tmp_path / 'model.pth').touch()
    (tmp_path / 'config.py').touch()
    words = ['a.png', 'config.py', 'model.pth'] if 'demo' in entry else []
    code = f'import os, sys\nos.chdir({str(tmp_path)!r})\n'
    path = str(ROOT / entry)
    run = f'import runpy\nsys.argv = {[path, *words]}\nrunpy.run_path({path!r}, run_name="__main__")'
    code += COMMAND if entry == COMMAND else run
    without = {name: value for name, value in os.environ.items() if name != 'OMP_WAIT_POLICY'}
    for given, expected in ({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, 'ACTIVE'):
        environment = without | given | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
        done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
