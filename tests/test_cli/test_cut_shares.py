"""Several processes of torchrun or srun share a folder, each by its rank."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from fake_backend import RedBackend

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.job import Share
from mmbirefnet.cli.main import main


def torchrun(rank, size):
    return {'RANK': str(rank), 'WORLD_SIZE': str(size), 'LOCAL_RANK': '0'}


def slurm(rank, size):
    return {'SLURM_PROCID': str(rank), 'SLURM_NTASKS': str(size), 'SLURM_STEP_ID': '0', 'SLURM_LOCALID': '0'}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for index in range(7):
        cv2.imwrite(str(folder / f'{index}.png'), np.full((40, 50, 3), 30 * index, np.uint8))
    (folder / '5.png').write_bytes(b'damaged')
    return folder


@pytest.fixture
def cut(images, tmp_path, monkeypatch, capsys):
    """Runs the command as one rank; returns its exit status and what it printed."""
    monkeypatch.setattr('mmbirefnet.cli.cut.inferencer_of', lambda args: BiRefNetInferencer(backend=RedBackend()))

    def run(environment, *words):
        for name in ('RANK', 'WORLD_SIZE', 'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_STEP_ID', 'SLURM_STEP_NUM_TASKS'):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = main(['cut', str(images), '-o', str(tmp_path / 'out'), '--save', 'mask', '--no-sandbox', *words])
        return status, capsys.readouterr()

    return run


@pytest.mark.parametrize('launcher', [torchrun, slurm])
@pytest.mark.parametrize('size', [2, 4])
def test_shares_cover_all_once(cut, tmp_path, launcher, size):
    counts = []
    for rank in range(size):
        status, printed = cut(launcher(rank, size))
        assert status == (rank == 5 % size)
        counts.append(len(range(rank, 7, size)) - (rank == 5 % size))
        assert f'process {rank} of {size}: {counts[-1]} written, 0 skipped, ' in printed.out
        assert ('all processes: 6 written, 0 skipped, 1 failed' in printed.out) == (rank == size - 1)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [f'{k}.png' for k in (0, 1, 2, 3, 4, 6)]


def test_a_job_that_was_cut_off_goes_on(cut, tmp_path):
    """Rank 1 of 2 never ran; the second job leaves the first's files alone."""
    cut(torchrun(0, 2))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'out').glob('*.png')}
    printed = [cut(torchrun(rank, 2), '--skip-existing')[1].out for rank in range(2)]
    assert 'process 0 of 2: 0 written, 4 skipped, 0 failed' in printed[0]
    assert 'all processes: 2 written, 4 skipped, 1 failed' in printed[1]
    assert all((tmp_path / 'out' / name).stat().st_mtime_ns == time for name, time in before.items())


@pytest.mark.parametrize('size', [2, 4])
def test_report_is_joined(cut, images, tmp_path, size):
    """It has every image once, by name, as the report of one process has, and is written when the last one ends."""
    cut({}, '--report', str(tmp_path / 'alone.json'))
    alone = json.loads((tmp_path / 'alone.json').read_text())
    for rank in reversed(range(size)):
        assert not (tmp_path / 'all.json').exists()
        cut(torchrun(rank, size), '--report', str(tmp_path / 'all.json'), '--overwrite')
    joined = json.loads((tmp_path / 'all.json').read_text())
    assert [image['input'] for image in joined['images']] == [str(images / f'{k}.png') for k in range(7)]
    for report in (alone, joined):
        report.pop('seconds')
        report['images'].sort(key=lambda image: image['input'])
        for image in report['images']:
            image.pop('seconds', None)
    assert joined == alone
    assert not list((tmp_path / 'out').glob('.report*'))


def test_reports_of_jobs_that_ended_are_deleted(cut, tmp_path):
    """Those of jobs that may still run, here or on another machine, and of other programs, stay."""
    code = (
        'from pathlib import Path; from mmbirefnet.apis.job import Report, Share; '
        f'print(Share(2, 4).join(Path({str(tmp_path / "out")!r}), Report()))'
    )
    launch = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {code!r}], check=True)'
    subprocess.run([sys.executable, '-c', launch], check=True)
    left = tmp_path / 'out/.report-2-of-4.json'
    content = json.loads(left.read_text())
    running = dict(content, launcher=dict(content['launcher'], pid=os.getpid()))
    elsewhere = dict(content, launcher=dict(content['launcher'], host='elsewhere'))
    kept = {'.report-0-of-3.json': running, '.report-1-of-3.json': elsewhere, '.report-2-of-3.json': [1]}
    for name, report in kept.items():
        (tmp_path / 'out' / name).write_text(json.dumps(report))
    for rank in range(2):
        cut(torchrun(rank, 2))
    assert {path.name for path in (tmp_path / 'out').glob('.report*')} == {*kept}


def test_environments():
    assert Share.from_environment({}) == (0, 1, 0)
    assert Share.from_environment({'SLURM_PROCID': '0', 'SLURM_NTASKS': '8'}) == (0, 1, 0)  # a batch script
    assert Share.from_environment({**slurm(3, 8), 'SLURM_STEP_NUM_TASKS': '4'}) == (3, 4, 0)
    with pytest.raises(ValueError, match='RANK=2, WORLD_SIZE=2'):
        Share.from_environment(torchrun(2, 2))


def test_one_file_or_a_watched_folder_is_not_shared(cut):
    status, printed = cut(torchrun(0, 2), '--watch')
    assert status == 2
    assert 'leave out --watch' in printed.err


def test_processes_at_once(images, tmp_path):
    """Two processes, one report with the sums, on counts alone."""
    code = (
        'from pathlib import Path; from mmbirefnet.apis.job import Report; from mmbirefnet.apis.job import Share; '
        f'share = Share.from_environment(); total = share.join(Path({str(tmp_path)!r}), Report(share.rank + 1)); '
        'print(total and total.written)'
    )
    running = [
        subprocess.Popen([sys.executable, '-c', code], env={**os.environ, **torchrun(rank, 2)}, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    printed = {process.communicate(timeout=100)[0].decode().strip() for process in running}
    assert '3' in printed
    assert not list(tmp_path.glob('.report*'))
