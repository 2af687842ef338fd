"""Settings for all tests of the Ray plugin. Ray reads them at import."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("ray") is None:
    collect_ignore_glob = ["*"]

# Ray reads these when it is imported, which the test modules do. With Ray's default niceness, 15, its workers would
# hardly run while other test processes compute.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
os.environ.pop("RAY_ADDRESS", None)
