"""Work shared by the processes of torchrun or srun, without a connection between them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmbirefnet.apis.job import Report


class Share(NamedTuple):
    """Which part of the work is this process's: items ``rank``, ``rank + size``, and so on."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Index of the process on its machine."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """The share that torchrun (``RANK``, ``WORLD_SIZE``) or a step of srun (``SLURM_PROCID``) gives this process.

        In a Slurm batch script itself, outside srun, one process has all the work.

        Raises:
            ValueError: If the numbers do not go together.
        """
        if 'RANK' in environment and 'WORLD_SIZE' in environment:
            names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
        elif 'SLURM_PROCID' in environment and 'SLURM_STEP_ID' in environment:
            names = ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID')
            if names[1] not in environment:
                names = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')
        else:
            return cls()
        values = [environment.get(name, '0') for name in names]
        if not all(value.isdecimal() for value in values) or not int(values[0]) < int(values[1]):
            found = ', '.join(f'{name}={value}' for name, value in zip(names, values))
            raise ValueError(
                f'{found}: expected a rank below the number of processes. Fix: start it by torchrun or srun'
            )
        return cls(*map(int, values))

    def begin(self, folder: Path) -> None:
        """Forget the report that an earlier run left for this rank."""
        self._file(folder, self.rank).unlink(missing_ok=True)

    def join(self, folder: Path, report: Report) -> Report | None:
        """Leave this process's report in a folder that all processes see.

        Returns:
            The report of all processes for the last one that ends, which removes the files; ``None`` for the others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        report.save(self._file(folder, self.rank))
        files = [self._file(folder, rank) for rank in range(self.size)]
        try:
            parts = [Report(**json.loads(file.read_bytes())) for file in files]
        except FileNotFoundError:  # still at work, or another process was the last and has removed them
            return None
        for file in files:
            file.unlink(missing_ok=True)
        return Report.joined(parts)

    def _file(self, folder: Path, rank: int) -> Path:
        return folder / f'.report-{rank}-of-{self.size}.json'
