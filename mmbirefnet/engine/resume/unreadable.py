"""Training that goes on without the files that cannot be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmbirefnet.engine.resume.seeded_data import DatasetWrapper

ATTEMPTS = 10
REPLACED = 'replaces'
"""Key of a sample's metainfo that says in place of what it was loaded."""


class SkipUnreadable(DatasetWrapper):
    """A data set that loads another sample, drawn at random, in place of one whose files are damaged.

    The replacement's ``data_samples`` say so in their metainfo, under :data:`REPLACED`: the errors that were met.

    Args:
        dataset: Raises ``OSError`` or ``ValueError`` for a damaged file, and gives dicts with ``data_samples``.

    Raises:
        RuntimeError: If ``ATTEMPTS`` samples in a row cannot be read, since then it is not single files.
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
    """The errors that samples of a batch were replaced for."""
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    return [error for sample in samples for error in sample.metainfo.get(REPLACED, ())]
