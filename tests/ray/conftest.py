"""Settings for the tests of the Ray plugin, which Ray reads when it is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("ray") is None:
    collect_ignore_glob = ["*"]

# The test modules import Ray, so the settings must be made before.
# Ray's own niceness is 15: its workers would hardly run next to the other test processes.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
os.environ.pop("RAY_ADDRESS", None)
