"""`sage-deploy[testing]` for tests of services: the fixture `sage_environment`, fakes and short tracebacks."""

from __future__ import annotations

import threading
from textwrap import dedent
from unittest.mock import Mock

import pytest

from sage_plugins import errors

FILE = """
    services:
      kv:
        class: no_such_module:KV
        init: {kwargs: {path: /no/such/path}}
        target: ray
        replicas: 3
        threading_strategy: pool
        max_thread_count: 3
        timeout: 7
        methods: {get: {timeout: 2}}
"""


class KV:
    def get(self, key):
        return self.load(key)

    def load(self, key):
        return f"{key} on {threading.current_thread().name}"


@pytest.fixture
def env(sage_environment, tmp_path):
    file = tmp_path / "service_deployment.yaml"
    file.write_text(dedent(FILE))
    sage_environment.load_service_deployment_config(file)
    return sage_environment


class Fake:
    def put(self, key, value):
        return key, value


def test_a_fake_takes_the_place_of_a_service_of_a_file(env):
    """
    A fake replaces a service from a configuration file, and keeps its strategy and timeout.

    It runs in this process. The class, constructor arguments, target and methods from the file are not used.
    """
    env.override("kv", Fake)
    env.deploy()
    assert env.service("kv").put("a", value=1) == ("a", 1)
    config = env.task("kv").composition.config
    assert (config.target, config.replicas, config.threading_strategy) == ("local", 1, "pool")
    assert (config.max_thread_count, config.timeout) == (3, 7)


def test_an_object_can_be_the_fake(env):
    """An object given as fake answers the calls itself, and gets a service context."""
    fake = KV()
    fake.load = lambda key: f"loaded {key}"
    env.override("kv", fake)
    env.deploy()
    assert env.service("kv").get("a") == "loaded a"
    assert fake.ctx.name == "kv"


def test_a_mock_with_a_spec_can_be_the_fake(env):
    mock = Mock(spec=KV)
    mock.get.return_value = "mocked"
    env.override("kv", mock)
    env.deploy()
    assert env.service("kv").get("a") == "mocked"
    mock.get.assert_called_once_with("a")


def test_a_service_that_runs_is_replaced_by_apply(env):
    """`apply` replaces a running service by a fake that was set later."""
    env.override("kv", Fake)
    env.deploy()
    env.override("kv", KV)
    env.apply()
    assert env.service("kv").get("a").startswith("a on kv#")


def test_mistakes_are_told_at_once(env):
    """Overriding an unknown service or with an object without public methods raises at once."""
    with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'kv'"):
        env.override("kvv", Fake)
    with pytest.raises(TypeError, match="no public methods"):
        env.override("kv", object())
    with pytest.raises(TypeError, match=r"no public methods.*give a mock a `spec`"):
        env.override("kv", Mock())


def test_a_fake_class_whose_constructor_needs_arguments_is_refused_at_once(env):
    """A class that cannot be built without arguments is refused, and the message says to give an object."""

    class Stored:
        def __init__(self, path, ctx=None):
            self.path = path

        def get(self, key):
            return self.path + key

    with pytest.raises(TypeError, match=r"Stored needs 'path'; give an object of Stored instead"):
        env.override("kv", Stored)
    env.override("kv", Stored("/"))
    env.deploy()
    assert env.service("kv").get("a") == "/a"


PROGRAM = """
    import threading
    import pytest

    class Broken:
        def get(self, key):
            raise LookupError("no such key")

    def test_broken(sage_environment):
        sage_environment.register_service("kv", Broken)
        sage_environment.deploy()
        sage_environment.service("kv").get("a")

    def test_left(sage_environment, request):
        left = threading.Event()
        request.config.add_cleanup(left.set)
        threading.Thread(target=left.wait, name="forgotten", daemon=True).start()

    def test_closed(sage_environment):
        test_closed.env = sage_environment
        sage_environment.register_service("kv", Broken)
        sage_environment.deploy()

    def test_was_closed():
        with pytest.raises(Exception, match="closed"):
            test_closed.env.deploy()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run the program as a separate project, in which pytest finds the plugin by its entry point alone."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(dedent(PROGRAM))
    return lambda *options: pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:schemathesis", *options)


def test_the_environment_is_closed_and_what_is_left_behind_fails_the_test(run):
    """The fixture closes its environment after the test, and a thread that the test leaves behind is an error."""
    done = run()
    done.assert_outcomes(passed=3, failed=1, errors=1)
    done.stdout.fnmatch_lines(["*test_left left behind:*", "*forgotten*"])


def test_tracebacks_show_the_test_and_the_service_alone(run):
    """Tracebacks hide frames of sage-deploy, unless `--full-trace` is given."""
    shown = run("-k", "broken").stdout.str()
    assert "sage_environment.service" in shown
    assert 'raise LookupError("no such key")' in shown
    assert "sage_plugins" not in shown
    assert "sage_plugins" in run("-k", "broken", "--full-trace").stdout.str()
