"""The HTTP service and its page: ``mmbirefnet serve``. Needs the packages of ``pip install 'mmbirefnet[server]'``."""
