"""Package of mmbirefnet. Configs and tools travel in ``mmbirefnet/.mim``, where ``mim`` looks for them."""

import os
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
EXTRAS = ('optional', 'deploy', 'export', 'formats', 'hub', 'matting', 'peft', 'server', 'video', 'docs', 'tests')
MIM_ITEMS = ('configs', 'tools', 'model-index.yml')


def version():
    namespace = {}
    exec((ROOT / 'mmbirefnet/version.py').read_text('utf-8'), namespace)
    return namespace['__version__']


def requirements(name):
    """Lines of ``requirements/<name>.txt``, with the files it includes."""
    found = []
    for line in (ROOT / f'requirements/{name}.txt').read_text('utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            found += requirements(Path(line[3:].strip()).stem)
        elif line:
            found.append(line)
    return found


def clear(path):
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def link_mim():
    """Editable install: ``.mim`` holds links, so that it follows the source tree."""
    target = ROOT / 'mmbirefnet/.mim'
    target.mkdir(exist_ok=True)
    for name in MIM_ITEMS:
        clear(target / name)
        (target / name).symlink_to(Path('../..') / name)


def copy_mim(package):
    """Wheel: ``.mim`` holds copies, made in the build folder only."""
    target = package / '.mim'
    clear(target)
    target.mkdir(parents=True)
    for name in MIM_ITEMS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        else:
            shutil.copy2(source, target / name)


def build_options():
    """Build in a temporary folder where the sources are read-only."""
    if os.access(ROOT, os.W_OK):
        return {}
    folder = tempfile.mkdtemp()
    return {'egg_info': {'egg_base': folder}, 'build': {'build_base': folder}}


class BuildPyWithMim(build_py):
    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            link_mim()
        else:
            copy_mim(Path(self.build_lib) / 'mmbirefnet')


class DevelopWithMim(develop):  # pip before 21.3 and `setup.py develop`, which do not run build_py
    def run(self):
        link_mim()
        super().run()


if __name__ == '__main__':
    setup(
        name='mmbirefnet',
        version=version(),
        description='BiRefNet: high-resolution dichotomous image segmentation in OpenMMLab',
        long_description=(ROOT / 'README.md').read_text('utf-8'),
        long_description_content_type='text/markdown',
        author='The mmbirefnet authors',
        license='Apache-2.0',
        keywords='computer vision, dichotomous image segmentation, salient object detection, matting, OpenMMLab',
        packages=find_packages(include=('mmbirefnet', 'mmbirefnet.*')),
        package_data={
            'mmbirefnet': ['py.typed'],
            'mmbirefnet.imaging': ['comparison.html'],
            'mmbirefnet.server': ['page.html'],
        },
        python_requires='>=3.10',
        entry_points={'console_scripts': ['mmbirefnet = mmbirefnet.cli.main:main']},
        install_requires=requirements('runtime'),
        extras_require={name: requirements(name) for name in EXTRAS} | {'mim': requirements('mminstall')},
        cmdclass={'build_py': BuildPyWithMim, 'develop': DevelopWithMim},
        classifiers=[
            'Development Status :: 4 - Beta',
            'Operating System :: OS Independent',
            'Programming Language :: Python :: 3',
            'Topic :: Scientific/Engineering :: Image Recognition',
        ],
        zip_safe=False,
        options=build_options(),
    )
