"""The wheel and the editable install, made from a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmbirefnet.version import __version__

ROOT = Path(__file__).parents[2]
PARTS = ('mmbirefnet', 'configs', 'tools', 'requirements', 'setup.py', 'pyproject.toml', 'MANIFEST.in')
PARTS += ('README.md', 'LICENSE', 'NOTICE', 'CHANGELOG.md', 'CITATION.cff', 'model-index.yml')


def python(*words, cwd, **environment):
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def files_below(folder):
    found = (path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
    return {path for path in found if '__pycache__' not in path.parts}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'source'
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.soak
def test_wheel_holds_configs_and_tools_and_works_by_itself(source, tmp_path):
    python('-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, source, cwd=tmp_path)
    site = tmp_path / 'site'
    (wheel,) = tmp_path.glob('mmbirefnet-*.whl')
    zipfile.ZipFile(wheel).extractall(site)
    mim = site / 'mmbirefnet/.mim'
    for name in ('configs', 'tools'):
        assert files_below(mim / name) == files_below(source / name) != set()
    assert (mim / 'model-index.yml').read_bytes() == (source / 'model-index.yml').read_bytes()
    assert files_below(site / 'mmbirefnet') - {Path('.mim', p) for p in files_below(mim)} == files_below(
        source / 'mmbirefnet'
    )
    assert not (source / 'mmbirefnet/.mim').exists()
    assert (site / 'mmbirefnet/py.typed').is_file()

    # mim and mmengine look for a package by its distribution
    code = 'import mmbirefnet; from mmengine.utils import get_installed_path as path; print(path("mmbirefnet"))'
    assert python('-c', code, cwd=tmp_path, PYTHONPATH=str(site)) == str(site / 'mmbirefnet')
    python(mim / 'tools/train.py', '--help', cwd=tmp_path, PYTHONPATH=str(site))

    (metadata,) = site.glob('*.dist-info/METADATA')
    lines = metadata.read_text().splitlines()
    needed = ' '.join(line for line in lines if line.startswith('Requires-Dist: ') and ' extra ==' not in line)
    assert 'numpy' in needed
    assert not any(word in needed for word in ('torch', 'mm', 'opencv'))


def test_editable_install_links_configs_and_tools(source, tmp_path):
    code = f'from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})'
    python('-c', code, cwd=source)
    mim = source / 'mmbirefnet/.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (mim / name).is_symlink()
        assert (mim / name).resolve() == source / name


def test_read_only_sources_are_built_elsewhere(source, tmp_path):
    before = files_below(source)
    read_only = 'import os; real = os.access; os.access = lambda path, mode: mode != os.W_OK and real(path, mode)'
    build = f'from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})'
    python('-c', f'{read_only}\n{build}', cwd=source)
    assert files_below(source) == before
    (wheel,) = tmp_path.glob('mmbirefnet-*.whl')
    assert 'mmbirefnet/.mim/tools/train.py' in zipfile.ZipFile(wheel).namelist()


@pytest.mark.soak
def test_source_distribution_is_complete(source, tmp_path):
    python('-c', f'from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})', cwd=source)
    (archive,) = tmp_path.glob('mmbirefnet-*.tar.gz')
    shutil.unpack_archive(archive, tmp_path)
    unpacked = tmp_path / archive.name.removesuffix('.tar.gz')
    for name in ('mmbirefnet', 'configs', 'tools', 'requirements'):
        assert files_below(unpacked / name) == files_below(source / name)
    assert all((unpacked / name).is_file() for name in PARTS[4:])


@pytest.mark.soak
def test_package_index_accepts_the_distributions(source, tmp_path):
    """Their metadata is valid, and the README renders."""
    pytest.importorskip('twine', reason='needs twine')
    for kind in ('wheel', 'sdist'):
        python('-c', f'from setuptools.build_meta import build_{kind}; build_{kind}({str(tmp_path)!r})', cwd=source)
    python('-m', 'twine', 'check', '--strict', *tmp_path.glob('mmbirefnet-*'), cwd=tmp_path)


@pytest.mark.parametrize('path', sorted((ROOT / 'requirements').glob('*.txt')), ids=lambda path: path.stem)
def test_requirements_have_the_bounds_that_were_tried(path):
    """But those whose interfaces we do not use: what mmsegmentation asks for, a logger that is a user's choice."""
    if path.stem == 'constraints':
        return
    for line in path.read_text().splitlines():
        line = line.partition('#')[0].strip()
        if line and line not in ('regex', 'ruff', 'wandb') and not line.startswith('-r '):
            operators = sorted(clause.operator for clause in Requirement(line).specifier)
            assert operators == ['<', '>='], line


def test_version_is_the_newest_of_the_changelog():
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text('utf-8'), re.M)[1]
    citation = re.search(r'^version: (\S+)', (ROOT / 'CITATION.cff').read_text('utf-8'), re.M)[1]
    assert __version__ == newest == citation
