"""Checkpoints by name in mmengine: ``load_from='BiRefNet'``, ``tools/test.py CONFIG BiRefNet``."""

from collections.abc import Callable

from mmengine.runner.checkpoint import CheckpointLoader

from mmbirefnet.fileio.checkpoint_loading import load_from_local

from .download import fetch


# mmengine logs the name from the tenth character on.
def load_from_file_or_name(filename: str, map_location: str | Callable | None = None) -> dict:
    """A checkpoint of a file or of the name of a model, as mmengine loads it.

    Args:
        filename: See :func:`mmbirefnet.zoo.download.fetch`; mmengine gives URLs to another loader.
        map_location: See ``torch.load``.

    Raises:
        OSError, ImportError, ValueError: See :func:`~mmbirefnet.zoo.download.fetch` and
            :func:`mmbirefnet.fileio.checkpoint_loading.load_from_local`.
    """
    return load_from_local(str(fetch(filename)), map_location)


def register_loader() -> None:
    """Let mmengine load by name whatever has no other prefix."""
    CheckpointLoader.register_scheme('', load_from_file_or_name, force=True)
