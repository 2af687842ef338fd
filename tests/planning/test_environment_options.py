"""Options of plugins for a whole environment, from files and from code: checked, shown, and given to the plugins."""

from __future__ import annotations

import pickle

import attrs
import pytest

import sage_deploy_balancers
import sage_deploy_files
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from registrations import changed
from sage_deploy_cli.machine.plugin_check import Inspection
from sage_deploy_files import dump, read
from sage_deploy_files.describing.field_docs import explain
from sage_deploy_files.describing.schema.document import deployment_schema
from sage_deploy_local.target import LocalTarget
from sage_plugins import Environment, ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import EnvironmentOptions, Explanation, Problem, Registration

FIRST_PARTY = (sage_deploy_balancers, sage_deploy_files, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)


@attrs.frozen
class RackOptions:
    """
    Options for the racks.

    Attributes:
        address: Where the racks are.
        wait: Longest wait for an answer.
        token: Secret that gives access.
    """

    address: str = "here"
    wait: float = attrs.field(default=5.0, metadata={"unit": "seconds"})
    token: str | None = None


class Racks:
    """A plugin whose target reads options of the whole environment, and records what it gets."""

    def __init__(self, cls=RackOptions):
        self.given = []
        racks = EnvironmentOptions("racks", lambda: cls, "The racks of all services")

        def create(options, environment):
            self.given.append(("create", options, environment))
            return LocalTarget()

        def check(config, options, environment):
            self.given.append(("check", options, environment))
            if environment.address == "nowhere":
                yield Problem("E999", "target", "has no rack")

        def explain(config, options, environment):
            return [Explanation(f"at {environment.address}")]

        self.registration = Registration(
            "racked",
            create,
            "In a rack",
            check=check,
            explain=explain,
            environment_options=racks,
            capabilities=frozenset({"in_process"}),
        )

    @hookimpl
    def sage_register_targets(self):
        return [self.registration]


class Keeper:
    def get(self, key):
        return key


@pytest.fixture
def plugin():
    return Racks()


@pytest.fixture
def deployment(plugin, tmp_path):
    """Makes an environment from the texts of files and from options given in code."""
    environments = []

    def make(*files, options=None):
        env = Environment("trial", registry=Registry.of(*FIRST_PARTY, plugin), options=options)
        environments.append(env)
        env.register_service("kv", Keeper)
        for number, text in enumerate(files):
            path = tmp_path / f"f{number}.yaml"
            path.write_text(text, encoding="utf-8")
            env.load_service_deployment_config(path)
        return env

    yield make
    for env in environments:
        env.close()


SERVICE = "services: {kv: {target: racked}}\n"


def shown(env):
    """Return the environment's options in the plan, by key."""
    (service,) = env.plan().services
    return {each.key: each for each in service.settings if each.key.startswith("environment.")}


# -- what reaches the plugin -------------------------------------------------------------------------------------------


def test_defaults_reach_the_plugin_if_nothing_is_said(deployment, plugin):
    """Without options the plugin gets the defaults."""
    env = deployment(SERVICE)
    env.deploy()
    assert {(what, environment) for what, _, environment in plugin.given} == {
        ("check", RackOptions()),
        ("create", RackOptions()),
    }


def test_options_of_the_file_reach_the_plugin(deployment, plugin):
    """Options from the file reach the plugin."""
    deployment("options: {racks: {address: there, wait: 250ms}}\n" + SERVICE).deploy()
    assert plugin.given[-1] == ("create", None, RackOptions("there", 0.25))


def test_code_beats_the_file_option_by_option_and_a_later_file_an_earlier_one(deployment):
    """Options in code override the file, one by one, and a later file overrides an earlier one."""
    first = "options: {racks: {address: first, wait: 1, token: one}}\n" + SERVICE
    second = "options: {racks: {address: second, wait: 2}}\nservices: {}\n"
    found = shown(deployment(first, second, options={"racks": {"address": "code"}}))
    assert [found[f"environment.racks.{name}"].value for name in ("address", "wait")] == ["code", 2.0]
    origins = [found[f"environment.racks.{name}"].origin for name in ("address", "wait", "token")]
    assert origins[0].source == "argument"
    assert [(each.path[-7:], each.line, each.column) for each in origins[1:]] == [
        ("f1.yaml", 1, 42),
        ("f0.yaml", 1, 51),
    ]


def test_environment_keeps_a_copy(deployment):
    """The environment keeps a copy of the given options."""
    options = {"racks": {"address": "there"}}
    env = deployment(SERVICE, options=options)
    options["racks"]["address"] = "nowhere"
    assert shown(env)["environment.racks.address"].value == "there"


def test_plugin_checks_and_explains_with_them(deployment):
    """The plugin's `check` and `explain` get the options."""
    env = deployment(SERVICE, options={"racks": {"address": "there"}})
    assert "at there" in str(env.plan())
    with pytest.raises(errors.ConfigError, match="E999"):
        deployment(SERVICE, options={"racks": {"address": "nowhere"}}).plan()


def test_chosen_plugin_makes_its_object_with_them_wherever_it_travels():
    """A plugin's choice creates its object with the options, also after it was pickled."""
    registration = Registration("it", _both, "x", environment_options=EnvironmentOptions("racks", RackOptions, "x"))
    from sage_plugins.values import Choice

    choice = pickle.loads(pickle.dumps(Choice(registration, None, RackSource(), RackOptions("there"))))  # noqa: S301
    assert choice.create() == (None, RackOptions("there"))


def _both(options, environment):
    return options, environment


def _local(options, environment):
    return LocalTarget()


class RackSource:
    source = "acme 1.0"


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{adress: x}",
            "f0.yaml:1:19: error E101: options.racks.adress: unknown key 'adress' (did you",
        ),
        ("{wait: soon}", "f0.yaml:1:25: error E102: options.racks.wait: "),
        ("{wait: [1]}", "f0.yaml:1:25: error E102: options.racks.wait: must be a number, got a list"),
    ],
)
def test_wrong_option_is_refused_at_its_place(deployment, text, message):
    """A wrong option in a file is refused with its place."""
    env = deployment(f"options: {{racks: {text}}}\n{SERVICE}")
    for refuse in (env.plan, env.deploy, lambda: env.service("kv").call("get", 1)):
        with pytest.raises(errors.ConfigError) as caught:
            refuse()
        assert message in str(caught.value)
        assert len(caught.value.problems) == 1
    assert [str(problem) for problem in env.check()] == [str(caught.value.problems[0])]


def test_wrong_option_given_in_code_is_refused_without_a_place(deployment):
    """A wrong option given in code is refused without a place."""
    env = deployment("options: {racks: {wait: 1}}\n" + SERVICE, options={"racks": {"wait": "x", "adress": 1}})
    with pytest.raises(errors.ConfigError) as caught:
        env.plan()
    assert sorted(str(problem)[:11] for problem in caught.value.problems) == ["error E101:", "error E102:"]


@pytest.mark.parametrize("options", [[], "racks", {"racks": 1}, {1: {}}])
def test_options_that_are_no_mapping_of_mappings_are_refused_at_once(options):
    """Options that are not a mapping of mappings are refused at once."""
    with pytest.raises(errors.ConfigError, match="E102: options"):
        Environment("trial", options=options)


def test_other_problems_are_reported_too(deployment):
    """A wrong option and other problems are reported together."""
    env = deployment("options: {racks: {adress: x}}\nservices: {kv: {target: racked, threading_strategy: pol}}\n")
    with pytest.raises(errors.SageDeployError) as caught:
        env.plan()
    assert sorted(problem.id for problem in caught.value.problems if problem.severity == "error") == ["E101", "E207"]


@attrs.frozen
class Demanding:
    """Options with a required one."""

    address: str


def test_required_option_is_asked_for_where_the_plugin_is_named(tmp_path):
    """A missing required option is reported where the plugin is named."""
    registry = Registry.of(*FIRST_PARTY, Racks(Demanding))
    with Environment("trial", registry=registry) as env:
        env.register_service_with_config("kv", Keeper, deployment_config=ServiceDeploymentConfig(target="racked"))
        with pytest.raises(errors.PlanError, match=r"target: needs options for the whole file: options\.racks\."):
            env.plan()
    with Environment("trial", registry=registry, options={"racks": {"address": "x"}}) as env:
        env.register_service_with_config("kv", Keeper, deployment_config=ServiceDeploymentConfig(target="racked"))
        assert shown(env)["environment.racks.address"].value == "x"


@pytest.mark.parametrize("given", ["{}", "{port: 1}"])
def test_missing_option_has_the_place_of_its_plugin_in_the_file(tmp_path, given):
    """A missing required option has the place where the file names the plugin."""
    path = tmp_path / "racked.yaml"
    path.write_text(f"options:\n  racks: {given}\n{SERVICE}", encoding="utf-8")
    with Environment("trial", registry=Registry.of(*FIRST_PARTY, Racks(Demanding))) as env:
        env.register_service("kv", Keeper)
        env.load_service_deployment_config(path)
        places = {problem.key: problem.line for problem in env.check() if problem.id == "E107"}
    assert places["options.racks.address"] == 2


# -- what has no effect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "fix"),
    [
        ("options: {rakcs: {}}\n" + SERVICE, "no installed plugin reads options", "did you mean 'racks'?"),
        ("options: {acme: {}}\n" + SERVICE, "no installed plugin reads options", "remove it"),
        ("options: {ray: {}}\n" + SERVICE, "no installed plugin", "install it with: pip install 'sage-deploy[ray]'"),
        (
            "options: {local: {}}\n" + SERVICE,
            "belong to each service",
            "move it to the options of the services, or to defaults",
        ),
        ("options: {racks: {}}\nservices: {kv: {}}\n", "no service uses a plugin of Racks that reads it", "remove it"),
    ],
)
def test_options_that_nobody_reads_are_a_warning(deployment, text, words, fix):
    """Options that no plugin reads give warning W12, with a fix."""
    (note,) = [each for each in deployment(text).plan().notes if each.id == "W12"]
    assert words in note.message
    assert note.fix == fix
    assert note.line == 1


@pytest.mark.parametrize(
    ("id_", "words", "fix"),
    [
        ("rakced", "no such plugin is installed", "did you mean 'racked'?"),
        ("kafka", "no such plugin is installed", "remove them"),
        ("remote_any", "no such plugin is installed", "install it with: pip install 'sage-deploy[ray]'"),
        ("racks", "these options are for all services together", "move them to the top of the file"),
        ("random", "the service does not use that plugin", "remove them"),
    ],
)
def test_options_of_a_service_that_nobody_reads_say_why(deployment, id_, words, fix):
    """Options of a service that have no effect give warning W12, which says why."""
    text = f"services: {{kv: {{class: 'things:Keeper', options: {{{id_}: {{a: 1}}}}}}}}\n"
    (note,) = [each for each in deployment(text).check() if each.key.startswith("options.")]
    assert (note.id, note.message, note.fix) == ("W12", f"has no effect: {words}", fix)


def test_options_given_in_code_that_nobody_reads_are_a_warning(deployment):
    """Options given in code that no plugin reads give a warning."""
    (note,) = deployment(SERVICE, options={"acme": {}}).plan().notes
    assert str(note).startswith("warning W12: options.acme: has no effect")


def test_options_that_a_service_needs_are_no_warning(deployment):
    """Options that a service's plugin reads give no warning."""
    assert deployment("options: {racks: {wait: 1}}\n" + SERVICE).plan().notes == ()


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_plan_shows_them_with_their_origin_and_who_acts_on_them(deployment):
    """The plan shows the options with their origin and the plugin that uses them."""
    found = shown(deployment("options: {racks: {address: there}}\n" + SERVICE))
    address, wait = found["environment.racks.address"], found["environment.racks.wait"]
    assert (address.value, address.acts) == ("there", "target racked")
    assert (address.origin.path[-7:], address.origin.line, address.origin.column) == ("f0.yaml", 1, 28)
    assert (wait.value, wait.origin.source) == (5.0, "default")


def test_secret_is_not_shown(deployment):
    """A secret option is hidden in the plan."""
    env = deployment("options: {racks: {token: hunter2}}\n" + SERVICE)
    assert "hunter2" not in str(env.plan()) + env.plan().to_json()
    assert shown(env)["environment.racks.token"].digest


def test_changed_options_replace_who_reads_them(deployment, tmp_path):
    """Changed options are a difference of each service whose plugin reads them."""
    env = deployment("options: {racks: {address: there}}\n" + SERVICE)
    env.deploy()
    assert not env.plan().has_changes
    tmp_path.joinpath("f0.yaml").write_text("options: {racks: {address: elsewhere}}\n" + SERVICE, encoding="utf-8")
    env.load_service_deployment_config(tmp_path / "f0.yaml")
    (service,) = env.plan().services
    assert [(each.key, each.old, each.new) for each in service.changes] == [
        ("environment.racks.address", "there", "elsewhere")
    ]


def test_file_that_is_written_out_has_them(tmp_path):
    """A file that is written out again keeps the options."""
    path = tmp_path / "f.yaml"
    path.write_text("options: {racks: {address: there}}\n" + SERVICE, encoding="utf-8")
    again = tmp_path / "again.yaml"
    again.write_text(dump(read(path)), encoding="utf-8")
    assert read(again).options == {"racks": {"address": "there"}}


def test_explain_shows_them(plugin):
    """`explain` describes the options."""
    registry = Registry.of(*FIRST_PARTY, plugin)
    (doc,) = explain("options.racks", lambda: registry)
    assert doc.doc == "Options for the whole file, at its top, from Racks: The racks of all services."
    assert doc.snippet["options"] == {"racks": {"address": "here"}}
    assert [key.path for key in doc.keys] == [f"options.racks.{name}" for name in ("address", "wait", "token")]
    assert explain("options.racks.wait", lambda: registry)[0].unit == "seconds"
    assert "options.racks" in [key.path for key in explain("options", lambda: registry)[0].keys]


def test_schema_has_them(plugin):
    """The schema contains the options."""
    found = deployment_schema(Registry.of(*FIRST_PARTY, plugin))
    reference = found["properties"]["options"]["properties"]["racks"]["$ref"]
    assert set(found["$defs"][reference.rpartition("/")[2]]["properties"]) == {"address", "wait", "token"}


# -- the contract ------------------------------------------------------------------------------------------------------


def test_two_plugins_that_read_one_id_are_refused():
    """If two plugins read options of one ID, services that use the second are refused."""

    class Others(Racks):
        @hookimpl
        def sage_register_targets(self):
            return [changed(self.registration, id="other")]

    registry = Registry.of(Racks(), Others())
    with pytest.raises(errors.PluginConflictError, match="'racks' of a whole environment are read by Racks"):
        registry.find("target", "other")


def test_plugin_that_says_two_things_of_one_id_is_refused():
    """A plugin that registers two different options classes for one ID is refused."""

    class Undecided(Racks):
        @hookimpl
        def sage_register_targets(self):
            other = EnvironmentOptions("racks", Demanding, "Other ones")
            return [self.registration, changed(self.registration, id="other", environment_options=other)]

    with pytest.raises(errors.PluginError, match="two different environment_options 'racks'"):
        Registry.of(Undecided())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"check": lambda config, options: []}, "check does not take three arguments"),
        (
            {"environment_options": EnvironmentOptions("racks", lambda: 1 / 0, "x")},
            "its environment_options class cannot be loaded: ZeroDivisionError",
        ),
        (
            {"environment_options": EnvironmentOptions("racks", dict, "x")},
            "its environment_options class <class 'dict'> is no attrs class",
        ),
    ],
)
def test_breach_of_the_contract_is_found(change, words):
    """The inspection of a plugin finds a wrong `check` signature or options class."""
    registration = changed(Racks().registration, create=_local, **change)
    (finding,) = Inspection("acme 1.0", "target", registration).findings()
    assert words in finding.found


def test_plugin_that_keeps_the_contract_is_in_order():
    """The inspection finds nothing wrong in a correct plugin."""
    registration = changed(Racks().registration, create=_local)
    assert list(Inspection("acme 1.0", "target", registration).findings()) == []
