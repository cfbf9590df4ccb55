"""Models of this project in rembg: its Python functions, its command and its HTTP server.

Importing this module registers the model ``mmbirefnet`` with rembg. The command
``python -m mmbirefnet.integrations.rembg`` is rembg's own, with that model.
"""

from __future__ import annotations

import os
import sys
from dataclasses import fields

try:
    from rembg import sessions
    from rembg.sessions.base import BaseSession
except (ImportError, SystemExit) as error:  # rembg exits where onnxruntime is missing
    raise ImportError(
        f'mmbirefnet.integrations.rembg needs rembg and onnxruntime ({error}). Fix: pip install "rembg[cpu,cli]"'
    ) from error
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer, Settings, load_image
from mmbirefnet.imaging.maps import to_uint8

NAME = 'mmbirefnet'
_OF_MODEL = ('config', 'device', 'dtype', 'fuse', 'crop_order', 'providers')
_OF_PREDICTION = tuple(field.name for field in fields(Settings))


class BiRefNetSession(BaseSession):
    """A session of rembg that predicts with :class:`mmbirefnet.apis.BiRefNetInferencer`.

    The image is resized to the size that the model was trained at, and the probabilities become gray levels as they
    are, trunc(255 p). rembg's own BiRefNet sessions run at 1024x1024 and stretch each map to 0..255.

    Args:
        model_name: rembg's name of the model.
        sess_opts: Ignored; :mod:`mmbirefnet.apis.onnx_backend` creates its own.
        model_path: Checkpoint or ``.onnx`` file, or any other value for ``weights`` of ``BiRefNetInferencer``.
        **options: ``config`` (the inferencer's ``model``), ``device``, ``dtype``, ``fuse``, ``crop_order`` and
            ``providers`` of the inferencer, and defaults of the options of :class:`mmbirefnet.apis.Settings`. Others
            are ignored: rembg passes its own here.

    Raises:
        FileNotFoundError, ImportError, ValueError: See :class:`mmbirefnet.apis.BiRefNetInferencer`.
    """

    defaults: dict = {}

    def __init__(self, model_name: str, sess_opts=None, *args, **options) -> None:
        self.model_name = model_name
        options = self.defaults | options
        of_model = {name: options[name] for name in _OF_MODEL if name in options}
        self.settings = {name: options[name] for name in _OF_PREDICTION if name in options}
        Settings(**self.settings)
        self.inferencer = BiRefNetInferencer(of_model.pop('config', None), options.get('model_path'), **of_model)

    def predict(self, img: Image.Image, *args, **options) -> list[Image.Image]:
        """Predict the map of an image.

        Args:
            img: The image, of any mode.
            *args: Ignored.
            **options: Options of :class:`mmbirefnet.apis.Settings` for this image.

        Returns:
            One map, of mode ``L`` and the image's size.
        """
        chosen = self.settings | {name: options[name] for name in _OF_PREDICTION if name in options}
        soft_map = self.inferencer.predict_image(load_image(img), Settings(**chosen))
        return [Image.fromarray(to_uint8(soft_map))]

    @classmethod
    def download_models(cls, *args, **kwargs) -> None:
        """Download nothing: the inferencer finds the model."""

    @classmethod
    def name(cls, *args, **kwargs) -> str:
        """Return rembg's name of the model."""
        return NAME


def register(name: str, model_path: str | os.PathLike | None = None, **options) -> type[BiRefNetSession]:
    """Register a model with rembg.

    Args:
        name: Name for ``rembg.new_session(name)``, and for ``-m`` of the command.
        model_path: As for :class:`BiRefNetSession`; by default the checkpoint that the inferencer takes by default.
        **options: As for :class:`BiRefNetSession`.

    Returns:
        The class that was registered.

    Raises:
        ValueError: If rembg has a model of that name already, or an option is unknown.
    """
    if name in sessions.sessions:
        raise ValueError(f'{name}: rembg has a model of this name already. Fix: choose another name')
    known = _OF_MODEL + _OF_PREDICTION
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f'{name}: unknown options {", ".join(unknown)}; known are {", ".join(known)}')
    if model_path is not None:
        options['model_path'] = model_path
    session = type(
        'BiRefNetSession',
        (BiRefNetSession,),
        dict(name=classmethod(lambda cls, *args, **kwargs: name), defaults=options, __module__=__name__),
    )
    # rembg uses the classes, and its command and server use the lists of names; 2.0.69 has only the first list.
    sessions.sessions[name] = session
    sessions.sessions_class.append(session)
    sessions.sessions_names.append(name)
    getattr(sessions, 'sessions_names_no_credentials', []).append(name)
    return session


if NAME not in sessions.sessions:
    register(NAME)

if __name__ == '__main__':
    # After the model is registered: the command reads the names as it is imported. In rembg 2.0.69, the import runs it.
    from rembg import cli

    sys.exit(cli.main())
