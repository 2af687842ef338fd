"""One trace covers a request through services on a Ray cluster."""

from __future__ import annotations

import pytest

from sage_plugins import Environment
from sage_plugins.call.current import INJECTORS
from traced_request import check_one_trace

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


def test_a_request_is_one_trace_through_services_on_ray(cluster, tmp_path):
    """A request is one trace from HTTP to a replica on Ray, and from there to another replica."""
    before = list(INJECTORS)
    try:
        with Environment("traced", options={"ray": {"address": cluster.address}}) as env:
            check_one_trace(env, tmp_path / "spans", target="remote_any", cpu_cores=0.01)
    finally:
        INJECTORS[:] = before
