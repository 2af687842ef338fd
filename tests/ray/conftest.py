"""What the tests of the Ray plugin share: the settings that Ray reads at its import."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("ray") is None:
    collect_ignore_glob = ["*"]

# Ray reads these when it is imported, which the test modules do. What it prints of workers that are killed comes at any
# moment, such as amid the output of an example.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_LOG_TO_DRIVER="0", RAY_USAGE_STATS_ENABLED="0")
os.environ.pop("RAY_ADDRESS", None)
