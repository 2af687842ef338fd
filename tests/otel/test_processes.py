"""One trace covers services whose replicas are separate processes, on a third-party target with the link library."""

from __future__ import annotations

import os
from pathlib import Path

import acme_sockets
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_otel
import sage_deploy_server
import sage_deploy_threading
import traced_services
from sage_plugins import Environment
from sage_plugins.call.current import INJECTORS
from sage_plugins.plugins.registry import Registry
from traced_request import check_one_trace

REGISTRY = Registry.of(
    acme_sockets,
    sage_deploy_balancers,
    sage_deploy_local,
    sage_deploy_monitors,
    sage_deploy_otel,
    sage_deploy_server,
    sage_deploy_threading,
)


@pytest.fixture(autouse=True)
def _replicas_import_what_tests_do(monkeypatch):
    folders = Path(acme_sockets.__file__).parents[1], Path(traced_services.__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


def test_a_request_is_one_trace_through_other_processes(tmp_path):
    """The trace connects the client's span, the service that it calls, and the service that this one calls directly."""
    before = list(INJECTORS)
    try:
        with Environment("traced", registry=REGISTRY) as env:
            check_one_trace(env, tmp_path / "spans", target="sockets")
    finally:
        INJECTORS[:] = before
