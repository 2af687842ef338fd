"""Sends a traced HTTP request through two services, whose replicas may be in any process."""

from __future__ import annotations

import http.client
import json

from sage_deploy_server import serve
from sage_plugins import ServiceDeploymentConfig
from traced_services import Back, Front, read_spans

TOKEN = "t" * 64
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def check_one_trace(env, path, **config):
    """Deploy `front` and `back`, ask `front` over HTTP, and check the spans that their processes have written."""
    config = ServiceDeploymentConfig(monitors=["metrics", "otel"], timeout=60, **config)
    for name, cls in (("front", Front), ("back", Back)):
        env.register_service_with_config(name, cls, str(path), deployment_config=config)
    env.deploy()
    with serve(env, "127.0.0.1:0", token=TOKEN) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}", "traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-Id": "mine"}
        connection.request("POST", "/services/front/ask", json.dumps(["ada"]), headers)
        assert connection.getresponse().read() == b'"ADA"'
        connection.close()
    spans = read_spans(str(path))
    front, back = spans["front.ask"], spans["back.look_up"]
    assert [span["context"]["trace_id"] for span in (front, back)] == [f"0x{TRACE}"] * 2
    assert front["parent_id"] == f"0x{SPAN}"
    assert back["parent_id"] == front["context"]["span_id"]
    assert {span["kind"] for span in (front, back)} == {"SpanKind.SERVER"}  # both callers are in another process
    assert {span["attributes"]["sage_deploy.request_id"] for span in (front, back)} == {"mine"}
    assert front["resource"]["attributes"]["process.pid"] != back["resource"]["attributes"]["process.pid"]
