"""Many callers and large arguments, with replicas on Ray."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from extremes import ExtremeCases

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), pytest.mark.slow, pytest.mark.timeout(300)]


class TestExtremes(ExtremeCases):
    config: ClassVar[dict[str, Any]] = {"target": "remote_any", "cpu_cores": 0.01}
