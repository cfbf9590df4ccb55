"""A data set around another."""

from typing import Any

from torch.utils.data import Dataset


class DatasetWrapper(Dataset):
    """Changes how samples are loaded; length and all other attributes are the inner data set's.

    Args:
        dataset: The inner one.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)
