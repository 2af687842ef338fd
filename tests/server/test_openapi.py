"""The server's OpenAPI document: its schemas accept exactly what the server accepts."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - as the next
import enum
import json
import re
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - the server reads the annotations
from dataclasses import dataclass, field
from types import SimpleNamespace

import attrs
import jsonschema
import pytest

from http_get import TOKEN, get
from sage_deploy_server import serve
from sage_deploy_server.description.openapi import openapi
from sage_plugins import Environment, ServiceDeploymentConfig


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    tags: list[str] = field(default_factory=list)


@attrs.define
class Place:
    x: int
    y: int = 0


@dataclass
class Halfway:
    """Like a class whose field names a class that only type checkers import."""

    value: Missing  # noqa: F821


class Unknown:
    """A class that msgspec does not know."""


class Desk:
    """
    Takes everything.

    And gives it back.
    """

    def add(self, a: int, b: int = 2) -> int:
        """
        Add two numbers.

        Of any size.
        """
        return a + b

    def item(self, item: Item) -> str:
        return item.name

    def place(self, place: Place, colour: Colour = Colour.RED) -> int:
        return place.x

    def day(self, day: dt.date) -> str:
        return day.isoformat()

    def size(self, data: bytes) -> int:
        return len(data)

    def maybe(self, number: int | None = None) -> int | None:
        return number

    def total(self, numbers: list[int]) -> int:
        return sum(numbers)

    def options(self, first: str, **more: int) -> int:
        return len(more)

    def many(self, first: int, /, *rest: int) -> int:
        return first + sum(rest)

    def nothing(self) -> None:
        pass

    def anything(self, value, unknown: Unknown | None = None):
        return value

    def broken(self, value: Missing) -> None:  # noqa: F821 - like a name that only type checkers import
        pass

    def halfway(self, value: Halfway) -> None:
        pass

    def call(self, number: int) -> int:
        return number

    async def later(self) -> Item:
        return Item("later")

    def raw(self) -> bytes:
        return b"\x00"

    def stream(self, to: int) -> Iterator[int]:
        yield from range(to)

    async def places(self) -> AsyncIterator[Place]:
        yield Place(1)

    def secretly(self, api_key: str = "swordfish") -> None:
        pass

    def _private(self) -> None:
        pass


def other_item():
    @dataclass
    class Item:
        size: int

    class Shelf:
        def put(self, item: Item) -> None:
            pass

    Shelf.put.__annotations__["item"] = Item
    return Shelf


@pytest.fixture
def env():
    with Environment("described") as env:
        config = ServiceDeploymentConfig(threading_strategy="pool", timeout=20)
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.register_service_with_config("shelf", other_item(), deployment_config=config)
        env.deploy()
        broken = ServiceDeploymentConfig(target="nowhere")
        env.register_service_with_config("bad", Desk, deployment_config=broken)
        yield env


@pytest.fixture
def server(env):
    with serve(env, "127.0.0.1:0", token=TOKEN, read_token="r" * 64) as running:
        yield running


@pytest.fixture
def document(server):
    status, document, _ = get(server, "/openapi.json", token="r" * 64)
    assert status == 200
    return document


def body_of(document, method, service="desk"):
    operation = document["paths"][f"/services/{service}/{method}"]["post"]
    return operation["requestBody"]["content"]["application/json"]["schema"]


def answer_of(document, method):
    return document["paths"][f"/services/desk/{method}"]["post"]["responses"]["200"]["content"]


def takes(document, schema, value):
    """Return whether *schema* accepts *value*; references are resolved in the document."""
    validator = jsonschema.Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=jsonschema.FormatChecker(["date"])
    )
    return validator.is_valid(value)


#: Methods with bodies, valid and not.
BODIES = [
    ("add", {"a": 1}),
    ("add", {"a": 1, "b": -1}),
    ("add", {"a": "1"}),
    ("add", {"a": None}),
    ("add", {"b": 1}),
    ("add", {"a": 1, "c": 1}),
    ("add", {}),
    ("item", {"item": {"name": "pen"}}),
    ("item", {"item": {"name": "pen", "tags": ["a"], "more": 1}}),
    ("item", {"item": {"tags": []}}),
    ("item", {"item": {"name": "pen", "tags": [1]}}),
    ("item", {"item": "pen"}),
    ("place", {"place": {"x": 1}}),
    ("place", {"place": {"x": 1, "y": "2"}}),
    ("place", {"place": {"y": 1}}),
    ("place", {"place": {"x": 1}, "colour": "blue"}),
    ("place", {"place": {"x": 1}, "colour": "green"}),
    ("day", {"day": "2026-02-28"}),
    ("day", {"day": "2026-02-30"}),
    ("day", {"day": 20260228}),
    ("size", {"data": "AAEC"}),
    ("size", {"data": 3}),
    ("size", {"data": "AA"}),
    ("size", {"data": "@@=="}),
    ("size", {"data": ""}),
    ("maybe", {}),
    ("maybe", {"number": None}),
    ("maybe", {"number": 3}),
    ("maybe", {"number": "3"}),
    ("total", {"numbers": [1, 2]}),
    ("total", {"numbers": []}),
    ("total", {"numbers": [1, "2"]}),
    ("total", {"numbers": 1}),
    ("options", {"first": "a", "x": 1}),
    ("options", {"first": "a", "x": "1"}),
    ("options", {"x": 1}),
    ("many", [1, 2, 3]),
    ("many", [1, "2"]),
    ("many", []),
    ("many", {"first": 1}),
    ("many", {}),
    ("nothing", {}),
    ("nothing", {"a": 1}),
    ("anything", {"value": {"a": [1]}}),
    ("anything", {"value": 1, "unknown": "x"}),
    ("broken", {"value": 1}),
    ("halfway", {"value": 1}),
    ("call", {"number": 1}),
    ("call", {"number": "1"}),
]


def test_schema_takes_what_the_server_takes(server, document):
    """For each body, the method's schema and the server agree whether it is valid."""
    for method, body in BODIES:
        status, answer, _ = get(server, f"/services/desk/{method}", method="POST", body=body)
        assert status in {200, 400}, (method, body, answer)
        assert takes(document, body_of(document, method), body) == (status == 200), (method, body, answer)


@pytest.mark.parametrize(
    ("method", "media", "schema"),
    [
        ("add", ["application/json"], {"type": "integer"}),
        ("anything", ["application/json"], {}),
        ("nothing", ["application/json"], {"type": "null"}),
        ("raw", ["application/octet-stream"], None),
        ("stream", ["application/x-ndjson", "text/event-stream"], {"type": "integer"}),
        ("places", ["application/x-ndjson", "text/event-stream"], {"$ref": "#/components/schemas/Place"}),
    ],
)
def test_answer_is_of_the_kind_that_the_method_gives(document, method, media, schema):
    """The media type and schema of an answer fit the method's return type."""
    found = answer_of(document, method)
    assert list(found) == media
    assert all(each.get("schema") == schema for each in found.values())


def test_classes_of_one_name_do_not_overwrite_each_other(document):
    """Classes with the same name in different services have separate schemas."""
    mine = body_of(document, "item")
    others = body_of(document, "put", "shelf")
    assert takes(document, mine, {"item": {"name": "pen"}})
    assert not takes(document, mine, {"item": {"size": 1}})
    assert takes(document, others, {"item": {"size": 1}})
    assert not takes(document, others, {"item": {"name": "pen"}})


def test_document_is_complete(document):
    """Every reference resolves, every schema is valid, and operation ids are unique."""
    text = json.dumps(document)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        found = document
        for part in reference.split("/"):
            found = found[part]
    jsonschema.Draft202012Validator.check_schema({"$defs": document["components"]["schemas"]})
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)
    assert {"desk.add", "shelf.put"} <= set(ids)
    assert document["openapi"].startswith("3.1")
    for id in ids:
        if id.startswith("desk."):
            jsonschema.Draft202012Validator.check_schema(body_of(document, id.removeprefix("desk.")))


def test_changes_say_what_they_take(server):
    """The document lists each parameter that a management route reads, and whether it needs a body."""
    paths = get(server, "/openapi.json", token="r" * 64)[1]["paths"]
    taken = {
        path: ([each["name"] for each in found["post"]["parameters"]], found["post"]["requestBody"]["required"])
        for path, found in paths.items()
        if path.startswith("/api/v1/") and "post" in found
    }
    service = "/api/v1/services/{service}"
    assert taken[f"{service}/scale"] == (["service", "dry_run", "If-Match"], True)
    assert taken[f"{service}/drain"] == (["service", "dry_run", "If-Match"], False)
    assert taken["/api/v1/apply"] == (["dry_run"], False)
    assert taken["/api/v1/login-link"] == taken["/api/v1/plan"] == ([], False)
    names = {
        path: [each["name"] for each in paths[path]["get"]["parameters"]]
        for path in paths
        if "get" in paths[path] and path.startswith("/api/v1/")
    }
    assert names["/api/v1/events"] == names["/api/v1/logs"] == ["after", "service"]
    assert names["/api/v1/operations/{id}"] == ["id", "wait"]


def test_operation_says_what_the_docstring_says(document):
    """An operation has the summary and description of the method's docstring, and its defaults and headers."""
    add = document["paths"]["/services/desk/add"]["post"]
    assert (add["summary"], add["description"]) == ("Add two numbers.", "Add two numbers.\n\nOf any size.")
    assert add["requestBody"]["required"] is True
    assert document["paths"]["/services/desk/maybe"]["post"]["requestBody"]["required"] is False
    assert body_of(document, "add")["properties"]["b"]["default"] == 2
    names = [each["$ref"].rpartition("/")[2] for each in add["parameters"]]
    assert names == ["X-Timeout", "X-Key", "X-Idempotent", "X-Request-Id"]
    assert {"name": "desk", "description": "Takes everything.\n\nAnd gives it back."} in document["tags"]


def test_only_served_methods_are_there_and_no_secrets(document):
    """The document has only the public methods, and no default value of a secret parameter."""
    paths = document["paths"]
    own = {path for path in paths if path.startswith("/services/desk/")}
    served = {name for name in vars(Desk) if not name.startswith("_")}
    assert own == {f"/services/desk/{name}" for name in served}
    assert "swordfish" not in json.dumps(document)


def test_services_have_schemas_that_stand_alone(server):
    """The schemas under /services need no other document."""
    status, found, _ = get(server, "/services", token="r" * 64)
    assert status == 200
    services = {service["name"]: service for service in found["services"]}
    assert set(services) == {"desk", "shelf", "bad"}
    assert services["desk"] == get(server, "/services/desk")[1]
    (item,) = [method for method in services["desk"]["methods"] if method["name"] == "item"]
    validator = jsonschema.Draft202012Validator(item["arguments"])
    assert validator.is_valid({"item": {"name": "pen"}})
    assert not validator.is_valid({"item": {"size": 1}})
    (later,) = [method for method in services["desk"]["methods"] if method["name"] == "later"]
    assert jsonschema.Draft202012Validator(later["result"]).is_valid({"name": "later", "tags": []})


def test_service_that_cannot_be_composed_says_why(server):
    """A service with an invalid configuration is listed with the reason and without methods."""
    _, found, _ = get(server, "/services/bad")
    assert (found["state"], found["methods"]) == ("refused", [])
    assert "nowhere" in found["error"]


def test_unknown_service_is_not_found_with_a_guess(server):
    status, problem, _ = get(server, "/services/desc")
    assert status == 404
    assert "did you mean 'desk'" in problem["detail"]


@pytest.mark.parametrize("path", ["/services", "/services/desk", "/openapi.json"])
def test_who_has_no_token_learns_nothing(server, path):
    """Without a valid token, neither services nor the document are readable."""
    assert get(server, path, token="x" * 64)[0] == 401


def test_further_paths_are_added(env):
    more = {"/api/v1/services": {"get": {"operationId": "list"}}}
    paths = openapi(env, more)["paths"]
    assert paths["/api/v1/services"] == more["/api/v1/services"]
    assert "/services/desk/add" in paths


def test_service_of_which_no_class_is_known_takes_anything():
    """If only a service's methods are known, as for one deployed by another process, its schemas accept anything."""

    class Aio:
        def get(self, *args, **kwargs):
            raise NotImplementedError

    operations = SimpleNamespace(
        name="e",
        status=lambda: {"services": {"far": {"state": "ready"}}},
        service=lambda _: SimpleNamespace(aio=Aio()),
    )
    document = openapi(operations, {})
    schema = body_of(document, "get", "far")
    assert takes(document, schema, {"a": 1})
    assert takes(document, schema, [1, "a"])
