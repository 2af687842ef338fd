"""A service that keeps what its constructor was given."""

from __future__ import annotations

import threading


class Given:
    """Keeps the arguments of its constructor."""

    made = 0

    def __init__(self, *args, **kwargs):
        type(self).made += 1
        self.args = args
        self.kwargs = kwargs

    def given(self):
        return self.args, self.kwargs

    def process(self, /, *args, **kwargs):
        return args, kwargs

    def thread(self):
        return threading.current_thread()
