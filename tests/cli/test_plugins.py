"""`sage-deploy plugins` with our plugins and third-party ones."""

from __future__ import annotations

import json
import textwrap

import pytest

from command_line import installed, register, sage_deploy
from sage_deploy_cli.machine.plugin_check import Inspection
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Problem, Registration


def test_list_names_distributions(tmp_path):
    """`plugins list` names the distribution of each ID."""
    done = sage_deploy("plugins", "list", cwd=tmp_path)
    assert done.returncode == 0
    for id, source in (
        ("local", "sage-deploy-local"),
        ("inline", "sage-deploy-threading"),
        ("least_loaded", "sage-deploy-balancers"),
        ("metrics", "sage-deploy-monitors"),
    ):
        assert any(id in line and source in line for line in done.stdout.splitlines()), done.stdout


def test_list_shows_what_did_not_load_and_what_is_disabled(tmp_path):
    """
    `plugins list` shows plugins that failed to load or are disabled, and names in the variable that no plugin has.
    """
    path = installed(tmp_path, "acme-strategies", "acme-broken")
    variables = {"PYTHONPATH": path, DISABLED_VARIABLE: "acme_strategies,acme_strategy"}
    done = sage_deploy("plugins", "list", cwd=tmp_path, **variables)
    assert done.returncode == 1
    assert "dedicated" not in done.stdout
    assert "- plugin 'acme_strategies' from acme-strategies 1.2 is disabled\n" in done.stdout
    assert (
        f"! {DISABLED_VARIABLE} names 'acme_strategy', but no plugin is called that (did you mean 'acme_strategies'?)\n"
        in done.stdout
    )
    assert (
        "! plugin 'acme_broken' from acme-broken 1.2 (acme_broken) failed to load: ModuleNotFoundError" in done.stdout
    )

    content = json.loads(sage_deploy("plugins", "list", "--json", cwd=tmp_path, **variables).stdout)
    assert any({"kind": "target", "id": "local"}.items() <= each.items() for each in content["plugins"])
    origin = {
        "plugin": "acme_strategies",
        "distribution": "acme-strategies",
        "version": "1.2",
        "module": "acme_strategies",
    }
    assert content["disabled"] == [origin]
    (failure,) = content["failures"]
    assert failure["distribution"] == "acme-broken"
    assert failure["reason"] == "ModuleNotFoundError: No module named 'acme_turbine_drivers'"


def test_list_shows_colliding_ids_with_their_distributions(tmp_path):
    """IDs that collide are listed with their distributions, in the form that a configuration uses."""
    done = sage_deploy("plugins", "list", cwd=tmp_path, PYTHONPATH=installed(tmp_path, "acme-collider"))
    assert done.returncode == 0, done.stderr
    assert "acme-collider:single" in done.stdout
    assert "sage-deploy-threading:single" in done.stdout


def test_show_tells_everything_about_an_id(tmp_path):
    """`plugins show` prints everything about an ID: origin, hooks, capabilities and options."""
    path = installed(tmp_path, "acme-strategies")
    done = sage_deploy("plugins", "show", "dedicated", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "threading strategy dedicated",
        "  one thread under a name of your choice",
        "",
        "  from         acme-strategies 1.2",
        "  entry point  acme_strategies = acme_strategies",
        "  hooks        sage_register_autoscalers, sage_register_threading_strategies",
        "  checks       nothing",
        "  explains     nothing",
        "  can          one_at_a_time, ordered, releases_at_deadline",
        "  options",
        '    thread_name: string = "acme"',
        "        What the thread is called, after the replica's id.",
    ]
    (plugin,) = json.loads(sage_deploy("plugins", "show", "dedicated", "--json", cwd=tmp_path, PYTHONPATH=path).stdout)[
        "plugins"
    ]
    assert (plugin["kind"], plugin["distribution"], plugin["checks"]) == (
        "threading strategy",
        "acme-strategies",
        False,
    )
    assert plugin["options"][0]["default"] == "acme"


TWICE = """
    from sage_plugins import hookimpl
    from sage_plugins.values import Registration

    def create(options):
        return None

    @hookimpl
    def sage_register_monitors():
        return [Registration("pool", create, "A monitor of that name")]
"""


def add(folder, name, source):
    """Add a distribution with one module, so that discovery finds it."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    register(folder, name, "1.0", {module: module})


def test_show_has_every_kind_that_has_the_id(tmp_path):
    """If several kinds have the same ID, `show` and `explain` show all of them."""
    add(tmp_path, "acme-twice", TWICE)
    done = sage_deploy("plugins", "show", "pool", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(" pool")] == [
        "threading strategy pool",
        "monitor pool",
    ]
    explained = sage_deploy("explain", "options.pool", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert "Options of the threading strategy 'pool'" in explained.stdout
    assert "Options of the monitor 'pool' from acme-twice 1.0: it has none." in explained.stdout


@pytest.mark.parametrize(("id", "hint"), [("poool", "did you mean 'pool'?"), ("ray", "did you mean 'remote_any'?")])
def test_show_of_an_unknown_id_is_bad_input(id, hint, tmp_path):
    done = sage_deploy("plugins", "show", id, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_check_finds_nothing_wrong_with_good_plugins(tmp_path):
    """Our plugins and those in the documentation pass the check."""
    path = installed(tmp_path, "acme-strategies", "acme-balancers")
    done = sage_deploy("plugins", "check", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "16 plugins, 25 IDs: all in order\n"


def test_check_names_who_does_not_load_and_who_collides(tmp_path):
    """The check reports both a plugin that does not load and one that collides."""
    path = installed(tmp_path, "acme-broken", "acme-collider")
    done = sage_deploy("plugins", "check", "--json", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1
    broken, conflict = json.loads(done.stdout)["findings"]
    assert broken["name"] == "acme-broken 1.2"
    assert "No module named 'acme_turbine_drivers'" in broken["found"]
    assert f"{DISABLED_VARIABLE}=acme_broken" in broken["fix"]
    assert {"acme-collider 1.2", "sage-deploy-threading 0.1.0"} == set(conflict["name"].split(" and "))
    assert "threading strategy 'single'" in conflict["found"]
    assert "uninstall one" in conflict["fix"]


def test_fix_for_what_check_finds_works(tmp_path):
    """Disabling the named plugins fixes what the check found."""
    path = installed(tmp_path, "acme-broken", "acme-collider")
    variables = {"PYTHONPATH": path, DISABLED_VARIABLE: "acme_broken,acme_collider"}
    assert sage_deploy("plugins", "check", cwd=tmp_path, **variables).returncode == 0


def test_check_and_doctor_warn_of_a_disabled_name_that_no_plugin_has(tmp_path):
    """A disabled name that no plugin has is a warning; the exit code stays 0."""
    variables = {DISABLED_VARIABLE: "balancerz,kafka,"}
    done = sage_deploy("plugins", "check", "--json", cwd=tmp_path, **variables)
    assert done.returncode == 0
    near, far = json.loads(done.stdout)["findings"]
    assert (near["name"], near["status"], near["fix"]) == (DISABLED_VARIABLE, "warning", "did you mean 'balancers'?")
    assert far["found"] == "names 'kafka', but no plugin is called that"
    assert "balancers" in far["fix"]
    doctor = json.loads(sage_deploy("doctor", "--json", cwd=tmp_path, **variables).stdout)["findings"]
    assert [finding["status"] for finding in doctor if finding["name"] == "plugins"] == ["warning", "warning"]


def test_unknown_hooks_are_found_with_a_guess(tmp_path):
    """A misspelt hook is reported with the right one; a hook that resembles none gets no suggestion."""
    hooks = "".join(f"\n@hookimpl\ndef {name}():\n    return []\n" for name in ("sage_register_monitor", "sage_dream"))
    add(tmp_path, "acme-newer", f"from sage_plugins import hookimpl\n{hooks}")
    done = sage_deploy("plugins", "check", "--json", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    fixes = {finding["found"].split("'")[3]: finding["fix"] for finding in json.loads(done.stdout)["findings"]}
    assert fixes == {
        "sage_register_monitor": "did you mean 'sage_register_monitors'?",
        "sage_dream": "a newer sage-deploy may know it",
    }


NOTHING_OFFERED = [
    ("def sage_register_targets():\n    return []\n", "which is not marked as a hook", "put @hookimpl before it"),
    ("@hookimpl\ndef sage_register_targets():\n    pass\n", "returned None: it must return a list", "correct it"),
    ("@hookimpl\ndef sage_register_targets():\n    return 7\n", "returned 7: it must return a list", "correct it"),
    ("\n\nraise OSError('no licence')\n", "OSError: no licence", "acme_empty3.py:4"),
]


def test_plugins_that_offer_nothing_by_mistake_are_found(tmp_path):
    """A plugin without marked hooks, or whose hook returns no list or raises, is reported with what to correct."""
    for number, (code, _, _) in enumerate(NOTHING_OFFERED):
        add(tmp_path, f"acme-empty{number}", f"from sage_plugins import hookimpl\n{code}")
    done = sage_deploy("plugins", "check", "--json", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    findings = sorted(json.loads(done.stdout)["findings"], key=lambda finding: finding["name"])
    for finding, (_, found, fix) in zip(findings, NOTHING_OFFERED, strict=True):
        assert found in finding["found"]
        assert fix in finding["fix"]


def test_objects_without_the_members_of_their_interface_are_found():
    """
    Objects that lack a member of their interface, or have other parameters, are reported with the right signature.
    """

    class Older:
        def __init__(self, options): ...

        def place(self, specs): ...

        def start(self): ...

    assert found(Registration("older", pickled(Older), "Older"), "target") == [
        "target 'older': what it creates has a start with other parameters than start(spec, at, events, clock)",
        "target 'older': what it creates has no close()",
    ]


class Quiet(QuietMonitor):
    def __init__(self, _options): ...


class Merges(Quiet):
    def merge(self): ...


class Attaches(Quiet):
    def attach(self, service): ...


@pytest.mark.parametrize(
    ("monitor", "capabilities", "faults"),
    [
        (Quiet, {"merges_counts"}, ["has no merge(snapshots)"]),
        (Quiet, {"watches_service"}, ["has no attach(service)"]),
        (Merges, {"merges_counts"}, ["has a merge with other parameters than merge(snapshots)"]),
        (Merges, (), ["has a merge with other parameters than merge(snapshots)"]),
        (Attaches, {"watches_service"}, []),
        (Attaches, (), []),
    ],
)
def test_optional_members_of_a_monitor_are_compared(monitor, capabilities, faults):
    """An optional member of a monitor must exist if its capability is declared, and fit if it exists."""
    registration = Registration("mine", monitor, "Mine", capabilities=frozenset(capabilities))
    assert found(registration) == [f"monitor 'mine': what it creates {fault}" for fault in faults]


def test_object_that_cannot_be_created_is_found():
    """An object that cannot be created with default options is reported."""
    assert found(Registration("bad", raises_at_once, "Bad")) == [
        "monitor 'bad': create raises with default options: RuntimeError: two lines"
    ]


def test_who_imports_heavy_modules_is_named_and_nobody_else(tmp_path):
    """
    Each plugin that imports heavy modules is named, even if another one imported them before. Its output is ignored.
    """
    add(tmp_path, "acme-heavy", "import asyncio, yaml\nprint('hello')\n")
    add(tmp_path, "acme-weighty", "import yaml\n")
    add(tmp_path, "acme-light", "import json\n")
    done = sage_deploy("plugins", "check", "--json", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    content = json.loads(done.stdout.removeprefix("hello\n"))
    assert {finding["name"]: finding["found"] for finding in content["findings"]} == {
        "acme-heavy 1.0": "discovering plugin 'acme_heavy' imports asyncio, yaml",
        "acme-weighty 1.0": "discovering plugin 'acme_weighty' imports yaml",
    }


# -- one registration ------------------------------------------------------------------------------------------------


CREATED = {
    "target": ("target", "local"),
    "threading strategy": ("threading strategy", "single"),
    "load balancer": ("load balancer", "round_robin"),
    "monitor": ("monitor", "health"),
}


def create(_options, *where, kind="monitor"):
    return Registry.discover().find(*CREATED[kind]).registration.create(None, *where)


def create_target(options):
    return create(options, kind="target")


def create_strategy(options):
    return create(options, kind="threading strategy")


def create_balancer(options, where):
    return create(options, where, kind="load balancer")


def raises_at_once(_options):
    raise RuntimeError("two\nlines")


def pickled(cls):
    """Make a local class of a test importable by name from this module, so that pickle finds it."""
    cls.__qualname__ = cls.__name__
    globals()[cls.__name__] = cls
    return cls


def two(_config, _options):
    return []


def raises(_config, _options):
    raise RuntimeError("two\nlines")


def odd(_config, _options):
    return [5]


def none(_config):
    return []


def found(registration, kind="monitor"):
    return [finding.found for finding in Inspection("acme 1.0", kind, registration).findings()]


def options_that(source):
    """Make an options class from source, as a plugin's module defines it."""
    namespace = {}
    exec(  # noqa: S102 - the test's own text
        f"from __future__ import annotations\nimport attrs\n{textwrap.dedent(source)}", namespace
    )
    return namespace["Options"]


PICKY = """
    @attrs.frozen
    class Options:
        size: int = attrs.field(default=0, validator=attrs.validators.gt(0))
"""
REQUIRED = "@attrs.frozen\nclass Options:\n    key: str\n"


@pytest.mark.parametrize(
    "registration",
    [
        Registration("good", create, "Good"),
        Registration("good", create, "Good", check=two, explain=two),
        Registration("good", create, "Without defaults nothing runs", options=options_that(REQUIRED), check=raises),
        Registration("good", create, "Errors are for the plan", check=lambda _c, _o: [Problem("E1", "x", "is wrong")]),
    ],
)
def test_registration_that_keeps_the_contract_has_no_finding(registration):
    assert found(registration) == []


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("target", create_target),
        ("threading strategy", create_strategy),
        ("load balancer", create_balancer),
        ("monitor", create),
    ],
)
def test_functions_get_a_configuration_that_names_the_id(kind, make):
    """`check` gets a configuration that names the registered ID."""
    seen = []
    registration = Registration("mine", make, "Mine", check=lambda config, _: seen.append(config) or [])
    assert found(registration, kind) == []
    assert "mine" in repr(seen[0])


@pytest.mark.parametrize(
    ("registration", "words"),
    [
        (Registration("bad", create, "two\nlines"), "its summary is not one line of text: 'two\\nlines'"),
        (Registration("bad", lambda _: create(None), "x"), "create cannot be imported by name: "),
        (Registration("bad", create, "x", check=none), "check does not take two arguments"),
        (Registration("bad", create, "x", explain=5), "explain does not take two arguments"),
        (
            Registration("bad", create, "x", check=raises),
            "check raises on a default configuration: RuntimeError: two lines",
        ),
        (Registration("bad", create, "x", explain=odd), "explain gives 5"),
        (Registration("bad", create, "x", check=odd), "check gives 5"),
        (Registration("bad", create, "x", options=dict), "its options class <class 'dict'> is no attrs class"),
        (Registration("bad", create, "x", options=two), "its options class cannot be loaded: TypeError"),
        (
            Registration("bad", create, "x", options=options_that("@attrs.frozen\nclass Options:\n    a: Nope = 1\n")),
            "the types of its options cannot be resolved: NameError",
        ),
        (
            Registration(
                "bad",
                create,
                "x",
                options=options_that(PICKY),
            ),
            "its options class refuses its own defaults: ",
        ),
    ],
)
def test_each_breach_of_the_contract_is_found(registration, words):
    """Each breach of the contract is reported with ID and kind, on one line, and with what to do."""
    (finding,) = Inspection("acme 1.0", "monitor", registration).findings()
    assert finding.found.startswith(f"monitor {registration.id!r}: {words}")
    assert finding.found.isprintable()
    assert (finding.name, finding.status) == ("acme 1.0", "failure")
    assert finding.fix
