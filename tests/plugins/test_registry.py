"""The registry finds installed plugins, refuses conflicts, and a broken plugin affects only services that need it."""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig, errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.plugins.hook_calls import KINDS
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

ROOT = Path(__file__).resolve().parent.parent.parent
FIRST_PARTY = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)


class Echo:
    def echo(self, value):
        return value


REGISTERS = """
    from sage_plugins.hookspecs import hookimpl
    from sage_plugins.values import Registration

    @hookimpl
    def sage_register_load_balancers():
        return [Registration({id!r}, lambda options: None, "A stranger's")]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a third-party distribution with one plugin, as far as discovery sees, until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def add(distribution, module, source, *, version="1.0", entry_point=None):
        made.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(f"[sage_deploy]\n{entry_point or module} = {module}\n", encoding="utf-8")

    yield add
    for module in made:
        sys.modules.pop(module, None)


# -- discovery ---------------------------------------------------------------------------------------------------------


def test_installed_plugins_are_found():
    """The default plugins are found by the same entry points as third-party ones."""
    registry = Registry.discover()
    assert registry.failures == ()
    assert {"local"} <= set(registry.ids("target"))
    assert {"single", "pool", "inline"} <= set(registry.ids("threading strategy"))
    assert {"round_robin", "least_loaded"} <= set(registry.ids("load balancer"))
    assert {"metrics"} <= set(registry.ids("monitor"))
    found = registry.find("target", "local")
    assert found.plugin.distribution == "sage-deploy-local"
    assert found.plugin.source == f"sage-deploy-local {found.plugin.version}"


def test_stranger_is_found(install):
    """A third-party plugin is found with its distribution and version."""
    install("acme-balance", "acme_balance", REGISTERS.format(id="acme"), version="2.3")
    found = Registry.discover().find("load balancer", "acme")
    assert (found.plugin.source, found.plugin.module) == ("acme-balance 2.3", "acme_balance")
    assert found.registration.summary == "A stranger's"


def test_each_registry_is_its_own(install):
    """A registry does not see plugins installed after it was made."""
    before = Registry.discover()
    install("acme-balance", "acme_balance", REGISTERS.format(id="acme"))
    after = Registry.discover()
    assert "acme" not in before.ids("load balancer")
    assert "acme" in after.ids("load balancer")


def test_registry_of_given_plugins_has_no_others():
    """`Registry.of` contains only the given modules and objects."""

    class Plugin:
        @hookimpl
        def sage_register_load_balancers(self):
            return [Registration("mine", lambda _: None, "Mine")]

    registry = Registry.of(sage_deploy_local, Plugin())
    assert set(registry.entries()) == {("target", "local"), ("load balancer", "mine")}
    assert [plugin.name for plugin in registry.plugins] == ["sage_deploy_local", "Plugin"]
    assert registry.find("load balancer", "mine").plugin.source == "Plugin"
    assert Registry.of().entries() == {}


def test_environment_takes_a_registry(environments, probe):
    """An environment uses only the plugins of its registry."""
    env = environments("test", registry=Registry.of(sage_deploy_local, sage_deploy_monitors))
    env.register_service("svc", probe)
    with pytest.raises(errors.UnknownPluginError, match="unknown threading strategy 'single'\n  installed: none"):
        env.deploy()
    env = environments("test", registry=Registry.of(*FIRST_PARTY))
    env.register_service("svc", probe)
    assert env.service("svc").echo(1) == 1


# -- unknown IDs -------------------------------------------------------------------------------------------------------


def test_unknown_id_says_what_there_is(install):
    """The error about an unknown ID has the service, the installed IDs, the nearest one and plugins that failed."""
    install("acme-gpu", "acme_gpu", "import no_such_module\n", version="1.2")
    registry = Registry.discover()
    with pytest.raises(errors.UnknownPluginError) as caught:
        registry.find("threading strategy", "singel", service="llm")
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "service 'llm': unknown threading strategy 'singel'"
    assert lines[1].startswith("installed: ")
    assert {"inline", "pool", "single"} <= set(lines[1].removeprefix("installed: ").split(", "))
    assert lines[2] == "did you mean 'single'?"
    reason = "ModuleNotFoundError: No module named 'no_such_module'"
    assert f"plugin 'acme_gpu' from acme-gpu 1.2 (acme_gpu) failed to load: {reason}" in lines
    assert (caught.value.kind, caught.value.id) == ("threading strategy", "singel")
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize(
    ("kind", "id_", "extra"),
    [
        ("target", "remote_any", "ray"),
        ("target", "remote_specific", "ray"),
        ("target", "cluster_group", "ray"),
    ],
)
def test_id_of_an_extra_says_how_to_get_it(kind, id_, extra):
    """The error about an ID of an extra says how to install it."""
    with pytest.raises(errors.UnknownPluginError, match=rf"pip install 'sage-deploy\[{extra}\]'"):
        Registry.of(*FIRST_PARTY).find(kind, id_)


@pytest.mark.parametrize("kind", [*KINDS, "plugin", "options"])
@pytest.mark.parametrize("id_", ["ray", "sage-deploy-ray", "remote_any", "poool", "prometheus", "balancers", "nothing"])
@pytest.mark.parametrize("state", ["all", "disabled", "first-party", "none"])
def test_advice_names_only_what_exists(monkeypatch, state, kind, id_):
    """Advice suggests only IDs that exist, and never the installation of something installed."""
    if state == "disabled":
        monkeypatch.setenv(DISABLED_VARIABLE, "ray")
    registry = {"first-party": Registry.of(*FIRST_PARTY), "none": Registry.of()}.get(state) or Registry.discover()
    ids = registry.ids(kind) if kind in KINDS else sorted({id for _, id in registry.entries()})
    ids = sorted(registry.environment_options()) if kind == "options" else ids
    advice = registry.advice(kind, id_, ids)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.findall(r"sage-deploy\[(.+)\]", advice)
    assert set(extras) <= set(project["optional-dependencies"])
    suggested = set(re.findall(r"did you mean '(.+?)'", advice))
    assert suggested <= (set(ids) if state == "all" else {*ids, "remote_any"})
    assert bool(extras) <= (state in {"first-party", "none"}), "what is installed is not to be installed"


def test_a_plugins_name_for_its_id_is_understood(install):
    """If a plugin's name is given as an ID, the advice names its ID."""
    install("acme-balance", "acme_balance", REGISTERS.format(id="one"))
    registry = Registry.discover()
    for name in ("acme-balance", "acme_balance"):
        assert registry.advice("load balancer", name, registry.ids("load balancer")) == "did you mean 'one'?"
        assert "one" not in registry.advice("target", name, registry.ids("target"))
    assert registry.advice("target", "ray", registry.ids("target")) == "did you mean 'remote_any'?"


def test_what_is_disabled_or_broken_is_not_to_be_installed(install, monkeypatch):
    """Advice about a disabled or broken plugin says so, and does not suggest installing it."""
    monkeypatch.setenv(DISABLED_VARIABLE, "ray")
    with pytest.raises(
        errors.UnknownPluginError, match="is installed, but disabled: change SAGE_DEPLOY_DISABLED_PLUGINS"
    ):
        Registry.discover().find("target", "remote_any")
    with pytest.raises(errors.UnknownPluginError, match=r"DISABLED_PLUGINS disables.* It names ray"):
        Registry.discover().find("target", "nowhere")
    install("sage-deploy-ray", "broken_ray", "import no_such_module\n")
    monkeypatch.delenv(DISABLED_VARIABLE)
    registry = Registry.discover(lambda plugin: plugin.name == "broken_ray")
    with pytest.raises(errors.UnknownPluginError, match="is installed, but failed to load"):
        registry.find("target", "remote_any")


@pytest.mark.parametrize("id_", ["", "x" * 10_000, "weird\nname", "Single", "local"])
def test_any_unknown_id_is_an_unknown_plugin_error(id_):
    """IDs match exactly, and only within their kind."""
    with pytest.raises(errors.UnknownPluginError):
        Registry.of(*FIRST_PARTY).find("threading strategy", id_)


# -- conflicts ---------------------------------------------------------------------------------------------------------


def test_two_plugins_may_have_one_name(install):
    """Two distributions with an entry point of the same name are both used."""
    install("acme-one", "acme_one", REGISTERS.format(id="one"), entry_point="acme")
    install("acme-two", "acme_two", REGISTERS.format(id="two"), version="2.0", entry_point="acme")
    registry = Registry.discover()
    assert not registry.failures
    assert {"one", "two"} <= set(registry.ids("load balancer"))


def test_two_plugins_with_one_id_hurt_only_who_names_it(install, environments):
    """If two plugins have one ID, only services that name it are refused. The error names both distributions."""
    install("acme-one", "acme_one", REGISTERS.format(id="round_robin"))
    env = environments("test", registry=Registry.discover())
    env.register_service("other", Echo)
    assert env.service("other").echo(1) == 1
    config = ServiceDeploymentConfig(replicas=2, load_balancing=True, load_balancer="round_robin")
    env.register_service_with_config("named", Echo, deployment_config=config)
    with pytest.raises(errors.PluginConflictError) as caught:
        env.plan()
    words = ("load balancer 'round_robin'", "acme-one 1.0", "sage-deploy-balancers", "uninstall one", DISABLED_VARIABLE)
    for word in words:
        assert word in str(caught.value)


def test_way_out_of_a_conflict_works(install, monkeypatch):
    """The solutions that the conflict's error suggests work: disable one plugin, or write `distribution:id`."""
    install("acme-one", "acme_one", REGISTERS.format(id="round_robin"))
    registry = Registry.discover()
    with pytest.raises(errors.PluginConflictError) as caught:
        registry.find("load balancer", "round_robin")
    assert registry.find("load balancer", "acme-one:round_robin").plugin.distribution == "acme-one"
    ours = registry.find("load balancer", "sage-deploy-balancers:round_robin")
    assert ours.plugin.distribution == "sage-deploy-balancers"
    assert {"acme-one:round_robin", "sage-deploy-balancers:round_robin"} <= set(registry.ids("load balancer"))
    monkeypatch.setenv(DISABLED_VARIABLE, str(caught.value).rpartition(f"{DISABLED_VARIABLE}=")[2])
    assert "round_robin" in Registry.discover().ids("load balancer")


def test_id_with_its_distribution_can_be_configured(install, environments):
    """A service can name `distribution:id`, and gives options under the ID alone."""
    install("acme-one", "acme_one", REGISTERS.format(id="consistent_hash"))
    env = environments("test", registry=Registry.discover())
    config = ServiceDeploymentConfig(
        replicas=2,
        load_balancing=True,
        load_balancer="sage-deploy-balancers:consistent_hash",
        options={"consistent_hash": {"vnodes": 8}},
    )
    env.register_service_with_config("kv", Echo, deployment_config=config)
    assert env.service("kv").echo(1) == 1


def test_one_id_of_two_kinds_is_no_conflict():
    """Plugins of different kinds can have the same ID."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("same", lambda _: None, "A target")]

        @hookimpl
        def sage_register_monitors(self):
            return [Registration("same", lambda _: None, "A monitor")]

    registry = Registry.of(Plugin())
    assert registry.find("target", "same").registration.summary == "A target"
    assert registry.find("monitor", "same").registration.summary == "A monitor"


def test_one_plugin_with_one_id_twice_is_refused():
    """A plugin that registers one ID twice is refused."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("same", lambda _: None, "One"), Registration("same", lambda _: None, "Two")]

    with pytest.raises(errors.PluginError, match="'same'"):
        Registry.of(Plugin())


def test_plugins_for_another_contract_are_refused_by_one_line():
    """A registration for another version of the contract is refused with both versions and what to do."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("future", lambda _: None, "A target", api=2)]

    with pytest.raises(errors.PluginError, match=r"version 2 of the plugin contract.* knows version 1: .* a newer"):
        Registry.of(Plugin())


@pytest.mark.parametrize("id", ["", "Big", "two words", "1st", "a-b", "colon:id", None])
def test_ids_are_words_of_small_letters(id):
    """IDs consist of small letters, digits and underscores; others are refused when the plugin is loaded."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration(id, lambda _: None, "A target")]

    with pytest.raises(errors.PluginError, match="an ID begins with a small letter"):
        Registry.of(Plugin())


def test_unknown_hooks_are_skipped_and_noted():
    """An unknown hook is recorded and skipped; the plugin's other hooks work."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("known", lambda _: None, "A target")]

        @hookimpl
        def sage_register_monitor(self):
            return []

    registry = Registry.of(Plugin())
    assert registry.ids("target") == ("known",)
    assert registry.plugins[0].unknown_hooks == ("sage_register_monitor",)


# -- broken plugins ----------------------------------------------------------------------------------------------------


BROKEN = {
    "missing module": ("import no_such_module", "ModuleNotFoundError"),
    "syntax": ("def (", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "raises": ("raise RuntimeError('two\\nlines')", "RuntimeError"),
    "hook raises": (
        """
        from sage_plugins.hookspecs import hookimpl

        @hookimpl
        def sage_register_monitors():
            raise RuntimeError("the hook's own")
        """,
        "the hook's own",
    ),
    "hook exits": (
        """
        from sage_plugins.hookspecs import hookimpl

        @hookimpl
        def sage_register_monitors():
            raise SystemExit("leaving")
        """,
        "leaving",
    ),
    "no registration": (
        """
        from sage_plugins.hookspecs import hookimpl

        @hookimpl
        def sage_register_monitors():
            return ["metrics"]
        """,
        "not a Registration",
    ),
    "no list": (
        """
        from sage_plugins.hookspecs import hookimpl

        @hookimpl
        def sage_register_monitors():
            return 5
        """,
        "returned 5: it must return a list",
    ),
    "wrong argument": (
        """
        from sage_plugins.hookspecs import hookimpl

        @hookimpl
        def sage_register_monitors(config):
            return []
        """,
        "config",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_plugin_hurts_only_who_needs_it(install, environments, probe, kind):
    """A broken plugin is listed with its reason on one line, and only services that need it are refused."""
    source, reason = BROKEN[kind]
    install("acme-broken", "acme_broken", source, version="0.3")
    registry = Registry.discover()
    (failure,) = registry.failures
    text = str(failure)
    assert text.startswith("plugin 'acme_broken' from acme-broken 0.3 (acme_broken) failed to load: ")
    assert reason in text
    assert "\n" not in text
    assert "acme_broken" not in [plugin.name for plugin in registry.plugins]

    env = environments("test", registry=registry)
    env.register_service("svc", probe)
    assert env.service("svc").echo(1) == 1
    config = ServiceDeploymentConfig(monitors=["acme"])
    env.register_service_with_config("needy", probe, deployment_config=config)
    with pytest.raises(errors.UnknownPluginError, match=r"acme-broken 0\.3"):
        env.plan()


@pytest.mark.parametrize("kind", ["hook raises", "hook exits", "no registration", "no list", "wrong argument"])
def test_broken_plugin_given_as_an_object_is_refused(install, kind):
    """`Registry.of` raises PluginError, on one line, for a broken plugin."""
    import importlib

    source, reason = BROKEN[kind]
    install("acme-broken", "acme_broken", source)
    module = importlib.import_module("acme_broken")
    with pytest.raises(errors.PluginError) as caught:
        Registry.of(*FIRST_PARTY, module)
    assert reason in str(caught.value)
    assert "acme_broken" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_broken_plugin_registers_nothing(install):
    """If one hook of a plugin fails, the whole plugin registers nothing."""
    source = REGISTERS.format(id="half") + (
        "\n    @hookimpl\n    def sage_register_monitors():\n        raise RuntimeError('other half')\n"
    )
    install("acme-half", "acme_half", source)
    registry = Registry.discover()
    assert "half" not in registry.ids("load balancer")
    assert "other half" in str(registry.failures[0])


def test_check_that_raises_names_its_plugin(environments, probe):
    """If a plugin's `check` raises, the error names the plugin and the service."""

    def check(_config, _options):
        raise RuntimeError("cannot check")

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("picky", lambda _: None, "Picky", check=check)]

    env = environments("test", registry=Registry.of(*FIRST_PARTY, Plugin()))
    env.register_service_with_config("svc", probe, deployment_config=ServiceDeploymentConfig(monitors=["picky"]))
    with pytest.raises(errors.PluginError, match=r"monitor 'picky'.*service 'svc'.*RuntimeError: cannot check"):
        env.plan()


# -- switched off ------------------------------------------------------------------------------------------------------


def test_disabled_plugins_are_not_even_imported(install, monkeypatch):
    """SAGE_DEPLOY_DISABLED_PLUGINS lists entry points that are not even imported, separated by commas."""
    assert DISABLED_VARIABLE == "SAGE_DEPLOY_DISABLED_PLUGINS"
    install("acme-broken", "acme_broken", "raise SystemExit\n")
    monkeypatch.setenv(DISABLED_VARIABLE, " acme_broken , no_such_plugin ,, ")
    registry = Registry.discover()
    assert registry.failures == ()
    assert "acme_broken" not in sys.modules
    assert "local" in registry.ids("target")


def test_disabling_a_default_plugin(monkeypatch, probe):
    """A default plugin can be disabled like any other."""
    name = Registry.discover().find("target", "local").plugin.name
    monkeypatch.setenv(DISABLED_VARIABLE, name)
    with Environment("test") as env:
        env.register_service("svc", probe)
        with pytest.raises(errors.UnknownPluginError, match="unknown target 'local'"):
            env.deploy()
