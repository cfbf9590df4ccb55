"""The HTTP service, running in a thread."""

import threading
import time
from contextlib import contextmanager

import uvicorn
from red import TakesRed

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.server import running
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits


@contextmanager
def service(backend=None, options=None, **bounds):
    """A running service; yields its address.

    Args:
        backend: What predicts, or a dict of inferencers as ``create_app`` takes.
        options: Of ``create_app``.
        bounds: Of ``Limits``.
    """
    listener = running.listen('127.0.0.1', 0)
    backend = backend or TakesRed()
    model = backend if isinstance(backend, dict) else BiRefNetInferencer(backend=backend)
    app = create_app(model, Limits(**bounds), **(options or {}))
    server = uvicorn.Server(running.configure(app))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
