"""`sage-deploy plugins`, with the distributions of strangers beside ours."""

from __future__ import annotations

import json
import textwrap

import pytest

from command_line import installed, register, sage_deploy
from sage_plugins.plugin_check import Inspection
from sage_plugins.plugins import DISABLED_VARIABLE
from sage_plugins.values import Problem, Registration


def test_list_names_distributions(tmp_path):
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
    """Whoever misses an ID finds out why, and sees a name in the variable that no plugin has."""
    path = installed(tmp_path, "acme-strategies", "acme-broken")
    variables = {"PYTHONPATH": path, DISABLED_VARIABLE: "acme_strategies,acme_strategy"}
    done = sage_deploy("plugins", "list", cwd=tmp_path, **variables)
    assert done.returncode == 1
    assert "dedicated" not in done.stdout
    assert "- plugin 'acme_strategies' from acme-strategies 1.2 is disabled\n" in done.stdout
    assert f"! {DISABLED_VARIABLE} names 'acme_strategy', but no plugin is called that\n" in done.stdout
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


def test_list_of_plugins_in_conflict_is_bad_input(tmp_path):
    done = sage_deploy("plugins", "list", cwd=tmp_path, PYTHONPATH=installed(tmp_path, "acme-collider"))
    assert done.returncode == 2
    assert "threading strategy 'single' is offered by" in done.stderr


def test_show_tells_everything_about_an_id(tmp_path):
    path = installed(tmp_path, "acme-strategies")
    done = sage_deploy("plugins", "show", "dedicated", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "threading strategy dedicated",
        "  one thread under a name of your choice",
        "",
        "  from         acme-strategies 1.2",
        "  entry point  acme_strategies = acme_strategies",
        "  hooks        sage_register_threading_strategies",
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
    """A distribution of one module, installed as far as discovery can tell."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    register(folder, name, "1.0", {module: module})


def test_show_has_every_kind_that_has_the_id(tmp_path):
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


@pytest.mark.parametrize(("id", "hint"), [("poool", "did you mean 'pool'?"), ("prometheus", "sage-deploy[prometheus]")])
def test_show_of_an_unknown_id_is_bad_input(id, hint, tmp_path):
    done = sage_deploy("plugins", "show", id, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_check_finds_nothing_wrong_with_good_plugins(tmp_path):
    """Ours, and the strangers' that the documentation shows."""
    path = installed(tmp_path, "acme-strategies", "acme-balancers")
    done = sage_deploy("plugins", "check", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "8 plugins, 19 IDs: all in order\n"


def test_check_names_who_does_not_load_and_who_collides(tmp_path):
    """Both at once: a conflict does not end the check."""
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
    """Disabling what is named mends it."""
    path = installed(tmp_path, "acme-broken", "acme-collider")
    variables = {"PYTHONPATH": path, DISABLED_VARIABLE: "acme_broken,acme_collider"}
    assert sage_deploy("plugins", "check", cwd=tmp_path, **variables).returncode == 0


def test_two_plugins_of_one_name_are_found(tmp_path):
    add(tmp_path, "acme-one", "")
    add(tmp_path, "acme-two", "")
    info = next(tmp_path.glob("acme_two-*"))
    (info / "entry_points.txt").write_text("[sage_deploy]\nacme_one = acme_two\n")
    done = sage_deploy("plugins", "check", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    assert "offers plugin 'acme_one'" in done.stdout


def test_who_imports_heavy_modules_is_named_and_nobody_else(tmp_path):
    """Also if another one imports the same module later; what they print does not matter."""
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


def create(_options):
    return None


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
    """An options class made from source, as a plugin's module makes it."""
    namespace = {}
    exec(  # noqa: S102 - our own text
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
        Registration("good", print, "A builtin is importable"),
        Registration("good", create, "Without defaults nothing runs", options=options_that(REQUIRED), check=raises),
        Registration("good", create, "Errors are for the plan", check=lambda _c, _o: [Problem("E1", "x", "is wrong")]),
    ],
)
def test_registration_that_keeps_the_contract_has_no_finding(registration):
    assert found(registration) == []


@pytest.mark.parametrize("kind", ["target", "threading strategy", "load balancer", "monitor"])
def test_functions_get_a_configuration_that_names_the_id(kind):
    seen = []
    registration = Registration("mine", create, "Mine", check=lambda config, _: seen.append(config) or [])
    assert found(registration, kind) == []
    assert "mine" in repr(seen[0])


@pytest.mark.parametrize(
    ("registration", "words"),
    [
        (Registration("", create, "x"), "its id is no word"),
        (Registration("a\nb", create, "x"), "its id is no word"),
        (Registration("bad", create, "two\nlines"), "its summary is not one line of text: 'two\\nlines'"),
        (Registration("bad", lambda _: None, "x"), "create cannot be imported by name: "),
        (Registration("bad", create, "x", check=none), "check does not take two arguments"),
        (Registration("bad", create, "x", explain=5), "explain does not take two arguments"),
        (
            Registration("bad", create, "x", check=raises),
            "check raises on a default configuration: RuntimeError: two lines",
        ),
        (Registration("bad", create, "x", explain=odd), "explain gives 5"),
        (Registration("bad", create, "x", check=odd), "check gives 5"),
        (Registration("bad", create, "x", options=dict), "its options class <class 'dict'> is no attrs class"),
        (Registration("bad", create, "x", options=two), "its options class cannot be had: TypeError"),
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
    """Each finding names the ID and its kind, says what is wrong on one line, and what to do."""
    (finding,) = Inspection("acme 1.0", "monitor", registration).findings()
    assert finding.found.startswith(f"monitor {registration.id!r}: {words}")
    assert finding.found.isprintable()
    assert (finding.name, finding.status) == ("acme 1.0", "failure")
    assert finding.fix
