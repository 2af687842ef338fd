"""The monitor `otel` makes one trace of a request through several services, with the real SDK."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sage_deploy_otel.options import OtelOptions
from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.call.current import INJECTORS
from traced_services import Back, Front, UnreadableError

TOKEN = "t" * 64
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def exporter():
    """Return the exporter of this process's spans. OpenTelemetry allows one provider per process."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(exporter):
    """Return a function that gives the spans that ended since the test began, by name."""
    exporter.clear()
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


@pytest.fixture
def deploy():
    opened = []
    injectors = list(INJECTORS)

    def deploy(*, strategy="single", **more):
        env = Environment("traced")
        opened.append(env)
        config = {"monitors": ["metrics", "otel"], "timeout": 20, **more}
        async_config = ServiceDeploymentConfig(threading_strategy="async", **config)
        env.register_service_with_config("front", Front, deployment_config=async_config)
        config = ServiceDeploymentConfig(threading_strategy=strategy, **config)
        env.register_service_with_config("back", Back, deployment_config=config)
        env.deploy()
        return env

    yield deploy
    for env in opened:
        env.close()
    INJECTORS[:] = injectors


def ask(env, path, *args, **headers):
    with serve(env, "127.0.0.1:0", token=TOKEN) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        sent = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("POST", path, json.dumps(args), sent)
        body = connection.getresponse().read()
        connection.close()
        return body


def test_a_request_is_one_trace_through_all_services(deploy, spans):
    """The trace continues the client's span, and each call is a child of the call that made it."""
    env = deploy()
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X_Request_Id": "mine"}
    assert ask(env, "/services/front/ask", "ada", **headers) == b'"ADA"'
    front, back = spans()["front.ask"], spans()["back.look_up"]
    assert {f"{span.context.trace_id:032x}" for span in (front, back)} == {TRACE}
    assert (f"{front.parent.span_id:016x}", back.parent.span_id) == (SPAN, front.context.span_id)
    assert (front.kind, back.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    found = dict(back.attributes)
    assert found.pop("sage_deploy.queue_s") > 0
    assert found == {
        "rpc.system": "sage_deploy",
        "rpc.service": "back",
        "rpc.method": "look_up",
        "sage_deploy.replica": "back#0",
        "sage_deploy.request_id": "mine",
    }
    assert back.status.status_code is StatusCode.UNSET


def test_a_call_inside_a_span_of_the_program_is_its_child(deploy, spans):
    """A call inside a span of the program is its child. Without such a span, each call begins a trace."""
    env = deploy()
    with trace.get_tracer("program").start_as_current_span("program"):
        env.service("back").look_up("ada")
    assert spans()["back.look_up"].parent.span_id == spans()["program"].context.span_id
    env.service("front").call("ask", "ada")
    front, back = spans()["front.ask"], spans()["back.look_up"]
    assert (front.parent, back.parent.span_id) == (None, front.context.span_id)
    assert front.kind is SpanKind.INTERNAL


def test_a_request_without_a_trace_begins_one(deploy, spans):
    """A request without a trace begins one with a server span."""
    ask(deploy(), "/services/back/look_up", "ada")
    span = spans()["back.look_up"]
    assert (span.parent, span.kind) == (None, SpanKind.SERVER)


def test_a_method_that_raises_leaves_its_error_in_the_span(deploy, spans):
    """An exception of a method is in the span, with status, type and stack trace."""
    with pytest.raises(LookupError):
        deploy().service("back").fail()
    span = spans()["back.fail"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "LookupError: no such thing")
    assert span.attributes["error.type"] == "LookupError"
    assert "in fail" in span.events[-1].attributes["exception.stacktrace"]


def test_an_exception_without_text_reaches_its_caller(deploy, spans):
    """A span changes no exception, even if the text of the exception cannot be read."""
    with pytest.raises(UnreadableError):
        deploy().service("back").fail_without_text()
    assert "text cannot be read" in spans()["back.fail_without_text"].status.description


class Gate:
    """Holds a method until the test opens the gate."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def reach(self):
        self.reached.set()
        assert self.open.wait(20)


def test_waiting_and_running_can_be_told_apart(deploy, spans):
    """A span begins when its call is accepted, and gets the event `run` when the method starts."""
    back = deploy().service("back")
    gate = Gate()
    first = back.submit("hold", gate)
    assert gate.reached.wait(20)
    accepted = time.time_ns()
    second = back.submit("look_up", "ada")
    opened = time.time_ns()
    gate.open.set()
    first.result(20)
    second.result(20)
    span = spans()["back.look_up"]
    (run,) = span.events
    assert run.name == "run"
    slack = 5_000_000  # the difference allowed between two clocks
    assert accepted - slack < span.start_time < opened + slack
    assert opened - slack < run.timestamp <= span.end_time
    assert abs((run.timestamp - span.start_time) / 1e9 - span.attributes["sage_deploy.queue_s"]) < 1e-5
    assert spans()["back.hold"].end_time >= opened - slack


def test_a_call_whose_caller_gives_up_is_marked(deploy, spans):
    """If the caller gives up while the method runs, the span's status says so."""
    back = deploy().service("back")
    gate = Gate()
    call = back.submit("hold", gate)
    assert gate.reached.wait(20)
    call.abandon()
    gate.open.set()
    back.look_up("ada")  # the same thread runs it after the abandoned call
    assert spans()["back.hold"].status.description == "given up by its caller before the method ended"


def test_a_stream_is_one_span(deploy, spans):
    """A stream is one span, whatever its number of items."""
    assert list(deploy(strategy="pool").service("back").count(3)) == [0, 1, 2]
    assert spans()["back.count"].status.status_code is StatusCode.UNSET


def test_baggage_goes_along(deploy, spans):
    """Baggage that the client sends reaches the spans of every service."""
    from opentelemetry import baggage

    env = deploy()
    found = []

    class Looking(Back):
        def look_up(self, word):
            found.append(baggage.get_baggage("tenant"))
            return word

    env.register_service_with_config(
        "back", Looking, deployment_config=ServiceDeploymentConfig(monitors=["otel"], timeout=20)
    )
    env.apply()
    ask(env, "/services/front/ask", "ada", traceparent=f"00-{TRACE}-{SPAN}-01", baggage="tenant=acme")
    assert found == ["acme"]
    assert f"{spans()['back.look_up'].context.trace_id:032x}" == TRACE


CALLED = []


def configure():
    """The function that `setup` names in the next test."""
    CALLED.append(1)


def test_setup_is_called_once_in_a_process(deploy, monkeypatch):
    """The function in `setup` is called once in a process, however many services name it."""
    import sys
    from types import ModuleType

    module = ModuleType("tracing_setup")
    module.configure = configure
    monkeypatch.setitem(sys.modules, "tracing_setup", module)
    deploy(options={"otel": {"setup": "tracing_setup:configure"}})
    assert CALLED == [1]


@pytest.mark.parametrize("value", ["configure", "a:b:c", "a b:c", ":c", "a:"])
def test_setup_names_a_module_and_a_function(value):
    """`setup` must have the form MODULE:FUNCTION."""
    with pytest.raises(ValueError, match="give MODULE:FUNCTION"):
        OtelOptions(setup=value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("tracing_setup:configur", "tracing_setup has no function 'configur' .did you mean 'configure'"),
        ("tracing_setup:name", "tracing_setup has no function 'name'"),
        ("no_such_module:configure", "cannot import 'no_such_module:configure': No module named"),
    ],
)
def test_setup_that_does_not_exist_is_named(deploy, monkeypatch, value, says):
    """A module or function in `setup` that does not exist fails the deployment with the option's name."""
    import sys
    from types import ModuleType

    from sage_plugins.errors import ConfigError

    module = ModuleType("tracing_setup")
    module.configure, module.name = configure, "text"
    monkeypatch.setitem(sys.modules, "tracing_setup", module)
    with pytest.raises(ConfigError, match=rf"options\.otel\.setup: {says}"):
        deploy(options={"otel": {"setup": value}})
