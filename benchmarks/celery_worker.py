"""The worker of `celery_calls.py`: `celery --app celery_worker worker`. The variable `BROKER` has its Redis server."""

from __future__ import annotations

import os

import celery

app = celery.Celery("bench", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task  # type: ignore[misc] # it may not be installed
def echo(value: int) -> int:
    """Return *value*."""
    return value
