"""What `explain` knows about the keys of a deployment file."""

from __future__ import annotations

import json

import attrs
import pytest
import yaml

import sage_deploy_threading
from sage_deploy_files.describing.field_docs import explain
from sage_deploy_files.describing.schema.options import OptionsSchemas
from sage_deploy_files.reading import reader
from sage_plugins import errors, hookimpl
from sage_plugins.config.nested_keys import METHOD_FIELDS
from sage_plugins.config.service_config import GROUPS, fields
from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration


def one(path):
    (doc,) = explain(path)
    return doc


def everything():
    """Return every key that can be explained, including the options of installed plugins."""
    registry = Registry.discover()
    ids = sorted({id for _, id in registry.entries()} | set(registry.environment_options()))
    found = list(one("").walk())
    for id in ids:
        for doc in explain(f"options.{id}", lambda: registry):
            found += [doc, *doc.walk()]
    return found


def test_every_field_can_be_explained():
    """Every field can be explained, by its name and in its group, with what its declaration says."""
    for name, info in fields().items():
        doc = one(name)
        assert doc == one(f"{info.group}.{name}" if info.group else name)
        assert (doc.doc, doc.type, doc.range) == (info.doc, info.type, info.range)
        assert doc.has_default


def test_every_key_of_the_file_is_there():
    """Exactly the keys that the reader accepts can be explained."""
    file = one("")
    assert {key.path for key in file.keys} | {"options"} == set(reader._TOP)
    services = next(key for key in file.keys if key.path == "services")
    own = [name for name, info in fields().items() if info.group is None]
    assert [key.path for key in services.keys] == ["class", "init", *GROUPS, *own]
    for group in GROUPS:
        inside = [f"{group}.{name}" for name, info in fields().items() if info.group == group]
        assert [key.path for key in one(group).keys] == inside
    assert [key.path for key in one("init").keys] == [f"init.{name}" for name in reader._INIT]


def test_every_snippet_is_a_deployment_file(tmp_path):
    """Every snippet is a valid deployment file that contains the key, so it can be copied."""
    file = tmp_path / "snippet.yaml"
    for doc in everything():
        file.write_text(yaml.safe_dump(doc.snippet, sort_keys=False), encoding="utf-8")
        content = reader.read(file)
        (entry,) = content.services.values()
        name = fields().get(doc.path.rpartition(".")[2])
        if name is not None and doc.path in {name.name, f"{name.group}.{name.name}"}:
            assert list(entry.values) == [name.name]


def test_every_key_is_explained_by_the_path_that_it_has():
    """Every explained key can be looked up by its own path."""
    for doc in everything():
        assert doc.path in {found.path for found in explain(doc.path)}
        assert doc.doc or doc.path.startswith("options.")


def test_descriptions_are_of_plain_types():
    """The explanations have plain types, because they are printed as JSON."""
    for doc in everything():
        json.dumps(attrs.asdict(doc))


@pytest.mark.parametrize(
    "above", ["services.kv.", "defaults.", "profiles.busy.defaults.", "profiles.busy.services.kv."]
)
@pytest.mark.parametrize("path", ["timeout", "performance.timeout", "methods.get.batch", "deployment", "options.pool"])
def test_way_from_the_top_of_the_file_may_stand_before_it(above, path):
    """A key can be given with its full path from the top of the file, as messages name it."""
    assert explain(above + path) == explain(path)


@pytest.mark.parametrize("key", METHOD_FIELDS)
def test_key_of_a_method_is_found_with_and_without_the_method(key):
    """A key of a method is found with and without a method's name; the snippet uses the given name."""
    assert one(f"methods.{key}") == one(f"methods.<name>.{key}")
    named = one(f"methods.get.{key}")
    assert named.doc == METHOD_FIELDS[key].doc
    assert "get" in named.snippet["services"]["my_service"]["methods"]


def test_options_name_the_plugin_they_belong_to():
    doc = one("options.pool")
    assert "threading strategy 'pool' from sage-deploy-threading" in doc.doc
    assert one("options.pool.idle_timeout") in doc.keys
    assert one("options.pool.idle_timeout").unit == "seconds"


def test_options_lists_every_plugin_that_has_some():
    paths = [key.path for key in one("options").keys]
    assert {"options.pool", "options.events", "options.consistent_hash"} <= set(paths)
    assert "options.inline" not in paths


def test_options_of_an_extension_are_for_the_whole_file_only():
    """The options of an extension are explained and suggested at the top of the file, not for each service."""

    @attrs.frozen
    class Options:
        path: str = ""

    class Plugin:
        @hookimpl
        def sage_register_extensions(self):
            return [Registration("board", Options, "Shows all", options=Options)]

    registry = Registry.of(Plugin())
    (doc,) = explain("options.board", lambda: registry)
    assert "services" in doc.snippet
    assert list(doc.snippet["options"]) == ["board"]
    assert "board" in OptionsSchemas().of_environment(registry)["properties"]
    assert "board" not in OptionsSchemas().of_plugins(registry)["properties"]


def test_options_that_cannot_be_read_hide_no_others():
    """Options that cannot be read are an error for that plugin only; the list of all options still works."""

    class Broken:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("broken", print, "Broken", options=lambda: 1 / 0)]

    registry = Registry.of(sage_deploy_threading, Broken())
    with pytest.raises(errors.PluginError, match="options of 'broken' from Broken cannot be read: ZeroDivisionError"):
        explain("options.broken", lambda: registry)
    (doc,) = explain("options", lambda: registry)
    assert [key.path for key in doc.keys] == ["options.broken", "options.multi", "options.pool", "options.single"]
    assert "ZeroDivisionError" in doc.keys[0].doc


def test_plugin_without_options_says_so():
    assert "it has none" in one("options.inline").doc


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("tiemout", "timeout"),
        ("performance.tiemout", "performance.timeout"),
        ("deployment.timeout", "performance.timeout"),
        ("services.kv.deployment.thread_cout", "deployment.thread_count"),
        ("methods.get.timeot", "methods.<name>.timeout"),
        ("options.pool.idel_timeout", "options.pool.idle_timeout"),
        ("perfomance", "performance"),
        ("servces", "services"),
        ("clas", "class"),
    ],
)
def test_misspelt_key_is_answered_with_the_nearest(path, near):
    """A misspelt key is answered with the nearest path."""
    with pytest.raises(errors.ConfigError) as caught:
        explain(path)
    assert f"did you mean {near!r}?" in str(caught.value)
    assert repr(path) in str(caught.value)
    assert caught.value.problems[0].id == "E101"


@pytest.mark.parametrize("path", ["zzzzzz", ".", "a..b", "class.x", "options.inline.x", "x" * 10_000, "\x1b]0;hi\n"])
def test_nonsense_is_refused_on_one_line(path):
    """A nonsensical key is refused with one short printable line."""
    with pytest.raises(errors.ConfigError) as caught:
        explain(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_options_of_an_unknown_plugin_say_what_keeps_it_from_being_used(monkeypatch):
    """Options of an unknown plugin are answered with a suggestion, or with why the plugin is not usable."""
    monkeypatch.setenv(DISABLED_VARIABLE, "ray")
    with pytest.raises(errors.UnknownPluginError, match="did you mean 'pool'"):
        explain("options.poool")
    with pytest.raises(errors.UnknownPluginError, match="sage-deploy-ray is installed, but disabled"):
        explain("options.remote_any")


def test_plugins_are_looked_for_only_if_options_are_asked_for():
    """Plugins are discovered only for options, so that a plugin conflict does not block other explanations."""

    def discover():
        raise errors.PluginConflictError("two of them")

    assert explain("timeout", discover)
    with pytest.raises(errors.PluginConflictError):
        explain("options.pool", discover)
