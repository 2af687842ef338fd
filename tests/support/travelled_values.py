"""Sends a value to another process and back, without the process."""

from __future__ import annotations

import pickle
import threading
from typing import Any

from sage_deploy_remote.payloads.packing import pack
from sage_deploy_remote.payloads.payload import unpack

LOCK = threading.Lock()
AT = {"service": "kv", "method": "put", "replica": "kv#0", "node": "node-a1"}


def travelled(value: Any) -> Any:
    """Return *value* as another process receives it: only bytes go between."""
    return unpack(pickle.loads(pickle.dumps(pack(value), 5)))  # noqa: S301 - made in the line itself
