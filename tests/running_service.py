"""The HTTP service, running in a thread."""

import threading
from contextlib import contextmanager

import uvicorn
from red import TakesRed

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.server import running
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits


@contextmanager
def service(backend=None, **bounds):
    """A running service; yields its address."""
    listener = running.listen('127.0.0.1', 0)
    app = create_app(BiRefNetInferencer(backend=backend or TakesRed()), Limits(**bounds))
    server = uvicorn.Server(running.configure(app))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
