"""Many callers and large arguments, with replicas in their own processes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from extremes import ExtremeCases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class TestExtremes(ExtremeCases):
    config: ClassVar[dict[str, Any]] = {"target": "process"}
