"""Training that continues without unreadable files."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmbirefnet.engine.resume.seeded_data import DatasetWrapper

ATTEMPTS = 10
REPLACED = 'replaces'
"""Key of the metainfo of a replacement sample, with the errors of the replaced ones."""


class SkipUnreadable(DatasetWrapper):
    """A data set that replaces samples with damaged files by other random samples.

    The metainfo of a replacement has the errors of the replaced samples under :data:`REPLACED`.

    Args:
        dataset: Data set that raises ``OSError`` or ``ValueError`` for a damaged file, and returns dicts with
            ``data_samples``.

    Raises:
        RuntimeError: If ``ATTEMPTS`` samples in a row cannot be read, which is not a problem of single files.
    """

    def __getitem__(self, index: int | tuple) -> dict:
        errors = []
        while len(errors) < ATTEMPTS:
            try:
                sample = self.dataset[index]
            except (OSError, ValueError) as error:
                errors.append(f'{type(error).__name__}: {error}')
                another = np.random.randint(len(self))  # noqa: NPY002 (seeded for each sample)
                index = (another, *index[1:]) if isinstance(index, tuple) else another
                continue
            if errors:
                sample['data_samples'].set_metainfo({REPLACED: errors})
            return sample
        raise RuntimeError(f'{ATTEMPTS} samples in a row cannot be read: {errors[0]}; …; {errors[-1]}')


def unreadable_in(batch: Any) -> list[str]:
    """Errors of the replaced samples of a batch."""
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    return [error for sample in samples for error in sample.metainfo.get(REPLACED, ())]
