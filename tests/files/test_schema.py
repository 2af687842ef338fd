"""
The JSON Schema of deployment files: it gives the same verdict as the reader, and offers what the plugins offer.

JSON has one kind of number and no infinity, YAML has both. To other validators `4.0` is an integer; to the reader, and
so to the validator here, it is not.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from file_cases import BAD_BODIES, BAD_FILES, REQUEST, service
from sage_deploy_files.describing.schema.document import deployment_schema
from sage_deploy_files.reading import reader
from sage_deploy_files.reading.nodes import read_nodes
from sage_plugins.config.service_config import GROUPS, fields
from sage_plugins.config.units import without_units
from sage_plugins.errors import ConfigError
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_plugins.config.field_checks import FieldInfo

TESTS = Path(__file__).parent.parent

#: What the reader refuses and a schema cannot express.
EXEMPT = {
    "E104": "the same field in its group and outside",
    "E105": "what the environment has",
    "E108": "how much there is, and how deep",
    **dict.fromkeys(
        ("E302", "E303", "E304", "E402", "E404", "E405", "E406", "E410", "E411", "E503", "E603", "E604", "E605"),
        "between fields",
    ),
}


def module(path: Path) -> Any:
    """Load a module of the tests, or a third-party plugin, from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


GOOD = module(TESTS / "files" / "test_deployment_file.py")
REFUSED = module(TESTS / "files" / "test_refused_files.py")
STRANGER = module(TESTS / "third_party" / "acme-strategies" / "acme_strategies.py")


def is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(_: Any, value: Any) -> bool:
    return is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


StrictValidator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_number}),
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="module")
def schema(registry) -> dict[str, Any]:
    return deployment_schema(registry)


@pytest.fixture(scope="module")
def validator(schema) -> Any:
    return StrictValidator(schema)


@pytest.fixture
def takes(validator):
    """Return whether the schema accepts a service with these values."""
    return lambda values: validator.is_valid({"services": {"kv": values}})


def with_units(declared: Mapping[str, FieldInfo]) -> Iterator[str]:
    """Yield the fields and keys that accept a number with a unit."""
    for name, info in declared.items():
        if info.unit:
            yield name
        yield from with_units(info.keys)


UNITS = frozenset(with_units(fields()))


def texts(value: Any, key: str = "") -> Iterator[str]:
    """Yield the keys whose value is text."""
    if isinstance(value, str):
        yield key
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from texts(child, name)


def counts(problem: Any, root: Any) -> bool:
    """Return whether the schema must find this problem too."""
    key = problem.key.rpartition(".")[2]
    # Only the reader checks the range of a duration or size given as text; numbers are checked by the schema too.
    return problem.id not in EXEMPT and not (problem.id == "E103" and key in UNITS and key in texts(root))


def hides(problem: Any) -> bool:
    """Return whether the reader skips what is below: another value replaces it, or no service uses it."""
    return problem.id == "E104" or problem.message.startswith("there is no service")


@functools.cache
def without_plugins() -> Any:
    """The schema without plugins: the reader knows no plugins; the plan checks their options."""
    return StrictValidator(deployment_schema(Registry.of()))


def compare(path: Path, data: bytes) -> None:
    """Check that the reader and the schema give the same verdict on a file that is valid YAML."""
    root, flaws = read_nodes(data, os.environ)
    assert root is not None
    assert not flaws
    path.write_bytes(data)
    try:
        reader.read(path)
        problems = []
    except ConfigError as error:
        problems = [problem for problem in error.problems if problem.severity == "error"]
    if any(map(hides, problems)):
        return
    mistakes = [error.message for error in without_plugins().iter_errors(root.value)]
    refused = [str(problem) for problem in problems if counts(problem, root.value)]
    assert bool(mistakes) == bool(refused), (mistakes, refused)


def readable(data: bytes) -> bool:
    """Return whether there is something to compare: the file is valid YAML and small."""
    if len(data) > 10_000:
        return False
    root, flaws = read_nodes(data, os.environ)
    return root is not None and not flaws


WRITTEN = [
    *(service(body).encode() for body, _ in BAD_BODIES),
    *(text for text, _ in BAD_FILES),
    REQUEST.encode(),
    GOOD.TestLayers.FILE.encode(),
    service(REFUSED.TestFileProblem.BODY).encode(),
    *(path.read_bytes() for path in sorted(TESTS.parent.glob("examples/*/*.yaml"))),
]
WRITTEN = [data for data in WRITTEN if readable(data)]


@pytest.mark.parametrize("data", WRITTEN, ids=lambda data: repr(data[:60]))
def test_schema_and_reader_agree_on_files_of_the_readers_tests(data, tmp_path):
    """Schema and reader agree on all files of the reader's tests."""
    compare(tmp_path / "file.yaml", data)


def test_files_of_the_readers_tests_are_found():
    assert len(WRITTEN) > 100


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(TESTS.glob("deployment_files/*/*.yaml")) if readable(path.read_bytes())],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_schema_and_reader_agree_on_the_collected_files(path, tmp_path):
    """Schema and reader agree on all files in tests/deployment_files."""
    compare(tmp_path / "file.yaml", path.read_bytes())


# -- generated files -------------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([0.5, 4.0, -0.0, 1e10, 2**31, 1025]),
    st.sampled_from(["", " a", "a ", "a b", "4", "true", "local", "block", "30s", "4Gi", "1h30m", "s", "m:C", "é"]),
    st.sampled_from([[], ["a"], ["a", "a"], [1], [None], {}, {"a": "b"}, {"a": 1}, {"a": {}}, {"_a": {}}, {"a b": {}}]),
)


def value_of(info: FieldInfo) -> st.SearchStrategy[Any]:
    """Generate mostly valid values of a field."""
    number = st.integers(0, 9)
    good: dict[str, st.SearchStrategy[Any]] = {
        "integer": number,
        "number": number | st.floats(0, 9),
        "boolean": st.booleans(),
        "string": st.sampled_from([*info.choices, "local", "x y", "é"]),
        "strings": st.lists(st.sampled_from(["a", "b", "metrics"]), max_size=2),
        "labels": st.dictionaries(st.sampled_from(["a", "b", ""]), st.sampled_from(["x", "y"])),
        "mapping": members(info.keys) if info.keys else st.dictionaries(st.sampled_from(["a", "b"]), ANYTHING),
        "methods": st.dictionaries(st.sampled_from(["get", "put", "_x", "a-b", "x1"]), members(info.keys), max_size=2),
        "batch": st.just(value=True) | members(info.keys),
        "options": st.dictionaries(st.sampled_from(["acme", "none"]), st.dictionaries(st.just("a"), ANYTHING)),
    }
    rare = [st.just("30s" if info.unit == "seconds" else "4Gi")] if info.unit else []
    return st.one_of(*[good[info.kind]] * 6, *rare, ANYTHING)


def members(declared: Mapping[str, FieldInfo]) -> st.SearchStrategy[dict[str, Any]]:
    known = st.fixed_dictionaries({}, optional={name: value_of(info) for name, info in declared.items()})
    return st.one_of(*[known] * 6, known.map(lambda values: values | {"mistake": 1}))


def some(declared: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate few of the keys: with many, nearly every file would be invalid."""
    pairs = st.sampled_from(sorted(declared)).flatmap(lambda name: st.tuples(st.just(name), declared[name]))
    return st.lists(pairs, max_size=4).map(dict)


FIELDS = {name: value_of(info) for name, info in fields().items()}
IN_GROUPS = {
    group: some({name: FIELDS[name] for name, info in fields().items() if info.group == group} | {"mistake": ANYTHING})
    for group in GROUPS
}
DEFAULTS = some({**FIELDS, **IN_GROUPS, "health": ANYTHING, "mistake": ANYTHING})
SERVICES = some(
    {
        **FIELDS,
        **IN_GROUPS,
        "class": st.sampled_from(["m:C", "a.b:C.D", "m", "m:", "1:2", "m:C "]),
        "init": some({"args": ANYTHING | st.just([1]), "kwargs": ANYTHING | st.just({"a": 1}), "arg": ANYTHING}),
    }
)
NAMED = st.sampled_from(["kv", "kv", "kv", "a-b_C1", "1a", "", "kv\n", "a" * 63, "a" * 64])
PROFILE = some({"defaults": DEFAULTS, "services": st.dictionaries(NAMED, SERVICES, max_size=1), "mistake": ANYTHING})
FILES = st.fixed_dictionaries(
    {"services": st.dictionaries(NAMED, SERVICES | SERVICES | ANYTHING, max_size=2)},
    optional={
        "version": st.sampled_from([1, 1, 2, "1", None]),
        "options": FIELDS["options"],
        "defaults": DEFAULTS,
        "profiles": st.dictionaries(NAMED, PROFILE, max_size=1),
    },
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(FILES)
@example({"services": {"kv": None}})
@example({"services": {"kv": {"deployment": {"target_nodes": ["a", "a"]}}}})
@example({"services": {"kv": {"methods": {"get": {"batch": False}}}}})
@example({"services": {"kv": {"class": "m:C\n"}}})
@example({"services": {"kv": {"target": "local\n"}}})
@example({"services": {"kv": {"timeout": "30s\n"}}})
@example({"services": {"kv": {}}, "profiles": {"dev": {"services": {"kv": None}}}})
@example({"services": {}, "defaults": {"class": "m:C"}})
def test_schema_and_reader_agree_on_any_file(tmp_path_factory, value):
    """The reader accepts a file exactly if the schema does, whatever its keys and values are."""
    compare(tmp_path_factory.getbasetemp() / "any.yaml", json.dumps(value).encode())


# -- texts that stand for other values -------------------------------------------------------------------------------


def scalars(declared: Mapping[str, FieldInfo], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every field and key with a single value, with its path."""
    for name, info in declared.items():
        below = (*path, name, "get") if info.kind == "methods" else (*path, name)
        if info.kind in {"integer", "number", "boolean", "string", "batch"}:
            yield (*path, name), info
        yield from scalars(info.keys, below)


SCALARS = dict(scalars(fields()))


def at(path: tuple[str, ...], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


@pytest.mark.parametrize("path", SCALARS, ids=".".join)
def test_variable_of_the_environment_may_stand_for_any_single_value(path, takes):
    """A variable of the environment may replace any single value; only the reader checks its content."""
    assert takes(at(path, "${NAME}"))
    assert takes(at(path, "${NAME:-1}${OTHER}"))
    if SCALARS[path].kind != "string":
        assert not takes(at(path, "$NAME"))


@pytest.mark.parametrize(
    "file",
    [
        {"version": "${V}", "services": {}},
        {"services": {"kv": {"class": "${C}"}}},
        {"services": {"kv": {"options": {"pool": {"idle_timeout": "${T}"}}}}},
        {"services": {"kv": {"options": {"consistent_hash": {"key": "${K}", "vnodes": "${N}"}}}}},
        {"services": {"kv": {"monitors": ["${M}"], "node_selector": {"gpu": "${G}"}}}},
    ],
)
def test_variable_may_stand_elsewhere_too(file, validator):
    assert validator.is_valid(file)


WITH_UNIT = [path for path, info in SCALARS.items() if info.unit]


@given(st.sampled_from(WITH_UNIT), st.from_regex(r"\A[0-9]{0,2}(\.5)?(ms|[smhd]|[KMGT]i?|)([0-9]s)?\n?\Z"))
@example(("timeout",), "1h30m")
@example(("memory_mb",), "4Gi")
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_durations_and_sizes_are_taken_where_the_reader_takes_them(path, text):
    """
    The schema accepts durations and sizes exactly where and as the reader does. Only the reader requires whole sizes.
    """
    name, value = next(iter(at(path, text).items()))
    _, problems = without_units(fields()[name], name, value)
    wrong = any(problem.id == "E102" for problem in problems)
    assert without_plugins().is_valid({"services": {"kv": {name: value}}}) == (not wrong)


def test_numbers_without_a_unit_take_no_text_with_one(takes):
    for path in SCALARS.keys() - set(WITH_UNIT):
        if SCALARS[path].kind in {"integer", "number"}:
            assert not takes(at(path, "30s")), path


# -- what the plugins say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "kind"),
    [("target", "target"), ("threading_strategy", "threading strategy"), ("load_balancer", "load balancer")],
)
def test_installed_ids_are_offered_with_their_summaries(field, kind, schema, registry, takes):
    """The schema offers the installed IDs with their summaries. Other IDs are valid too; the plan checks them."""
    known = schema["$defs"][f"fields.{field}"]["anyOf"][0]
    assert known["enum"] == list(registry.ids(kind))
    assert known["enumDescriptions"] == [registry.find(kind, id).registration.summary for id in registry.ids(kind)]
    assert takes({field: "not_installed"})
    assert not takes({field: ""})


def test_installed_monitors_are_offered_in_the_list(schema, registry, takes):
    """The schema offers the installed monitors in the list, and refuses duplicates."""
    known = schema["$defs"]["fields.monitors"]["items"]["anyOf"][0]
    assert known["enum"] == list(registry.ids("monitor"))
    assert takes({"monitors": ["metrics", "mine"]})
    assert not takes({"monitors": ["mine", "mine"]})


def test_strangers_plugin_is_described(registry):
    """A third-party plugin's ID is offered, and its options are checked as its class does."""
    found = deployment_schema(Registry.of(STRANGER))
    assert found["$defs"]["fields.threading_strategy"]["anyOf"][0]["enum"] == ["dedicated"]
    dedicated = found["$defs"]["fields.options"]["properties"]["dedicated"]
    assert dedicated["description"].startswith("one thread under a name of your choice\nFrom ")
    option = found["$defs"]["acme_strategies.DedicatedOptions"]["properties"]["thread_name"]
    assert option["description"] == 'What the thread is called, after the replica\'s id.\nDefault: "acme".'
    assert option["default"] == "acme"

    def takes(options):
        return StrictValidator(found).is_valid({"services": {"kv": {"options": {"dedicated": options}}}})

    assert takes({})
    assert takes({"thread_name": "mine"})
    assert not takes({"thread_name": ""})
    assert not takes({"thread_nam": "mine"})


def test_unknown_options_are_refused_and_those_of_absent_plugins_are_not(takes):
    """Unknown options are refused for an installed plugin, and accepted for one that is not installed."""
    assert takes({"options": {"multi": {}, "absent": {"anything": [1]}}})
    assert not takes({"options": {"multi": {"x": 1}}})
    assert not takes({"options": {"absent": 1}})


def no_options():
    raise ImportError("no module named 'missing'")


@pytest.mark.parametrize(
    ("options", "why"),
    [(no_options, "ImportError: no module named 'missing'"), (dict, "<class 'dict'> is not an attrs class")],
)
def test_plugin_that_cannot_say_its_options_takes_any_and_says_why(options, why):
    """A plugin whose options class fails accepts any options, says why, and does not break the schema of others."""

    class Failing:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("failing", dict, "fails", options=options)]

    found = deployment_schema(Registry.of(Failing()))
    assert why in found["$defs"]["fields.options"]["properties"]["failing"]["description"]
    assert StrictValidator(found).is_valid({"services": {"kv": {"options": {"failing": {"x": 1}}}}})


def test_options_of_an_id_that_two_plugins_have_may_be_either_ones():
    """If two plugins have the same ID, the options of either are valid."""

    class Second:
        @hookimpl
        def sage_register_load_balancers(self):
            return [Registration("dedicated", dict, "second", options=SecondOptions)]

    found = StrictValidator(deployment_schema(Registry.of(STRANGER, Second())))
    for options, good in (({"thread_name": "x"}, True), ({"second": 1}, True), ({"third": 1}, False)):
        assert found.is_valid({"services": {"kv": {"options": {"dedicated": options}}}}) == good


def _second_options() -> type:
    import attrs

    return attrs.make_class("SecondOptions", {"second": attrs.field(type=int, default=1)})


SecondOptions = _second_options()


# -- the schema itself -----------------------------------------------------------------------------------------------


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for child in schema.values():
            yield from walk(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from walk(child)


def test_schema_is_valid(schema):
    Draft202012Validator.check_schema(schema)


def test_schema_names_no_place(schema):
    """The schema has no address, and all its references stay inside."""
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$id" not in json.dumps(schema)
    assert json.dumps(schema).count("://") == 1
    for part in walk(schema):
        if "$ref" in part:
            head, _, name = part["$ref"].rpartition("/")
            assert head == "#/$defs"
            assert name in schema["$defs"]


def test_every_key_is_described(schema):
    """Every key has a title and a description; a field also has its default."""
    for part in walk(schema):
        for name, found in part.get("properties", {}).items():
            described = schema["$defs"][found["$ref"].rpartition("/")[2]] | found if "$ref" in found else found
            assert described["title"], name
            assert described["description"], name
    for name in fields():
        assert "\nDefault: " in schema["$defs"][f"fields.{name}"]["description"]


def test_every_default_is_valid(schema):
    """Every default is valid, because editors fill it in."""
    found = [part for part in walk(schema) if "default" in part and ("type" in part or "anyOf" in part)]
    assert len(found) > 40
    for part in found:
        assert StrictValidator(part).is_valid(part["default"]), part
