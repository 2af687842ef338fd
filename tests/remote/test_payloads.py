"""Values arrive unchanged. What cannot be sent is refused with the path to the part."""

from __future__ import annotations

import enum
import functools
import pickle
import re
import sys
import threading
from collections import OrderedDict, deque
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_deploy_remote.payloads.packing import pack, pack_arguments, pack_result
from sage_deploy_remote.payloads.payload import unpack
from sage_plugins.errors import ResultNotSerializableError
from travelled_values import AT, LOCK, travelled

# -- values ----------------------------------------------------------------------------------------------------------


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(deadline=None)  # a slow machine is not a failure
@given(plain)
def test_plain_values_arrive_as_they_were(value):
    assert travelled(value) == value


@settings(deadline=None)  # a slow machine is not a failure
@given(plain, st.sampled_from(["__main__", b"__main__"]))
def test_a_value_that_mentions_the_main_module_is_a_value(value, mention):
    """A value that contains the text `__main__` arrives unchanged, although that name marks classes sent by value."""
    assert travelled([value, mention]) == [value, mention]


class Point(NamedTuple):
    x: int


class Slots:
    __slots__ = ("lock",)


class Row:
    lock: Any = None


def holding(lock: Any) -> Row:
    row = Row()
    row.lock = lock
    return row


def in_slots(lock: Any) -> Slots:
    slots = Slots()
    slots.lock = lock
    return slots


def in_closure(lock: Any) -> Any:
    return lambda: lock


def local_class() -> type:
    class Local:
        def twice(self) -> Any:
            return [type(self), __class__]

    return Local


class Memory:
    """Like an array: its numbers are a buffer outside its pickle."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Memory, (pickle.PickleBuffer(self.numbers),)


def test_buffers_are_not_copied():
    """A buffer is not copied: both ends see its later changes."""
    memory = bytearray(1 << 20)
    data, buffers, references = pack([Memory(memory)])

    assert len(data) < 1000
    (buffer,) = buffers
    memory[0] = 7
    (arrived,) = unpack((data, buffers, references))
    assert buffer.raw()[0] == arrived.numbers.raw()[0] == 7


def test_classes_and_functions_made_inside_functions_travel():
    """Lambdas and instances of local classes can be sent."""
    Local = local_class()  # noqa: N806 - a class
    assert travelled(lambda x: x + 1)(1) == 2
    assert travelled(functools.partial(lambda a, b: a - b, 3))(1) == 2
    assert isinstance(travelled(Local()), Local)


def test_a_class_that_comes_home_is_the_one_that_left_and_is_left_as_it_was():
    """A local class that returns to its process is the same object and stays unchanged."""
    Local = local_class()  # noqa: N806 - a class
    twice = Local.twice

    assert travelled([Local, Local()])[0] is Local
    assert travelled(Local().twice)() == [Local, Local]
    assert Local.twice is twice


def test_a_function_that_comes_home_is_the_one_that_left():
    """A local function that returns to its process is the same object."""
    function = in_closure(3)
    assert travelled({"f": function})["f"] is function


def test_enumerations_made_inside_functions_keep_their_members():
    """A member of a local enumeration is the same object when it returns to its process."""
    Colour = enum.Enum("Colour", "RED GREEN")  # noqa: N806 - a class
    assert travelled(Colour.RED) is Colour.RED


def test_values_pickled_in_many_threads_share_one_class():
    """If many threads pickle instances of one local class, all of them arrive with that class."""
    Local = local_class()  # noqa: N806 - a class
    packed: list[Any] = []
    threads = [threading.Thread(target=lambda: packed.append(pack(Local()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {type(unpack(payload)) for payload in packed} == {Local}


# The path is for the person who reads the error: it is computed only after a value was refused.
PATHS = [
    (LOCK, ""),
    ({"rows": [1, 2, 3, holding(LOCK)]}, "['rows'][3].lock"),
    (Point(LOCK), ".x"),
    ([in_slots(LOCK)], "[0].lock"),
    (deque([1, LOCK]), "[1]"),
    (OrderedDict(a={"b": (LOCK,)}), "['a']['b'][0]"),
    ({Point(1): LOCK}, "[Point(x=1)]"),
    ({"k" * 50: LOCK}, "['" + "k" * 39 + "...]"),
    (functools.partial(sorted, LOCK), ".args[0]"),
    (ValueError("x", LOCK), ".args[1]"),
    ([in_closure(LOCK)], "[0] (its variable 'lock')"),
    (holding(in_closure(holding(LOCK))), ".lock (its variable 'lock').lock"),
]


@pytest.mark.parametrize(("value", "path"), PATHS)
def test_a_value_that_cannot_travel_is_refused_with_the_path_to_the_part(value, path):
    with pytest.raises(TypeError) as caught:
        pack(value)
    assert str(caught.value).endswith(f": value{path}: cannot pickle '_thread.lock' object")


def test_a_function_that_uses_what_cannot_travel_is_refused_with_its_name():
    """If a function uses a value that cannot be sent, the error names the function and the global."""
    namespace = {"LOCK": LOCK, "__name__": "__main__"}
    exec("class Service:\n    def run(self):\n        return LOCK", namespace)  # noqa: S102 - as a script defines it
    with pytest.raises(TypeError, match=r"value \(its class Service\)\.run \(its global 'LOCK'\): cannot pickle"):
        pack(namespace["Service"]())


class Unreadable(dict):
    def items(self):
        raise RuntimeError


class Refuses:
    def __getstate__(self):
        raise RuntimeError("not me")


class Deep:
    def __init__(self, depth: int) -> None:
        self.inner: Any = LOCK
        for _ in range(depth):
            self.inner = [self.inner]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([Refuses()], "value[0]: RuntimeError: not me"),
        (Unreadable(a=LOCK), "RuntimeError"),
        (Deep(100_000), "recursion"),
    ],
)
def test_looking_for_the_part_ends_whatever_the_value_does(value, message):
    """The search for the part ends with an error message, even if the value's methods raise or it is very deep."""
    with pytest.raises(TypeError, match=re.escape(message)):
        pack(value)


def test_what_is_made_while_pickling_is_named_by_what_made_it():
    """An object made while pickling is not part of the value, so the error names the object that made it."""

    class Stateful:
        def __getstate__(self):
            return {"made": threading.Lock()}

    with pytest.raises(TypeError, match=r"value\[1\]: cannot pickle '_thread.lock' object"):
        pack([1, Stateful()])


def test_a_result_that_cannot_travel_is_refused_with_its_call():
    """A result that cannot be sent is refused; the error names the call, the replica and the part."""
    with pytest.raises(ResultNotSerializableError) as caught:
        pack_result({"rows": [holding(LOCK)]}, **AT)

    assert str(caught.value) == (
        "kv.put (replica kv#0 on node-a1) returned a dict, which cannot be sent to its caller: "
        "result['rows'][0].lock: cannot pickle '_thread.lock' object. Return plain data instead"
    )
    assert {name: getattr(caught.value, name) for name in AT} == AT


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, [holding(LOCK)]), {}, "argument 2 of kv.put cannot be sent to the replica: argument[0].lock: cannot"),
        ((), {"a": 1, "value": LOCK}, "argument 'value' of kv.put cannot be sent to the replica: argument: cannot"),
    ],
)
def test_an_argument_that_cannot_travel_is_refused_with_its_place(args, kwargs, message):
    """An argument that cannot be sent is refused; the error names the argument and the part."""
    with pytest.raises(TypeError, match=re.escape(message)):
        pack_arguments(args, kwargs, service="kv", method="put")


def test_arguments_and_results_arrive():
    assert unpack(pack_arguments((1, "a"), {"b": [2]}, service="kv", method="put")) == ((1, "a"), {"b": [2]})
    assert unpack(pack_result([1], **AT)) == [1]


def test_a_class_that_is_missing_here_is_named_with_what_to_do(monkeypatch):
    """If a class or module is missing in the receiving process, a note says which and what to do."""
    module = ModuleType("only_there")
    monkeypatch.setitem(sys.modules, "only_there", module)
    exec("class Thing: pass\nclass Other: pass", vars(module))  # noqa: S102 - what the other process has
    thing, other = pack(module.Thing()), pack(module.Other())
    del module.Other

    with pytest.raises(AttributeError, match="Other") as caught:
        unpack(other)
    assert "Run the same version in both places" in caught.value.__notes__[0]
    monkeypatch.delitem(sys.modules, "only_there")
    with pytest.raises(ModuleNotFoundError, match="only_there") as caught_import:
        unpack(thing)
    assert "needs only_there, which cannot be imported here" in caught_import.value.__notes__[0]


class Count(int):
    """A subclass of a plain number."""


class Text(str):
    __slots__ = ("note",)


@pytest.mark.parametrize("value", [True, 1, 1.5, None, "__main__", b"\x8c\x08__main__", Count(3), Text("x")])
def test_plain_values_keep_their_types_and_what_only_looks_plain_does_too(value):
    """Values keep their exact types, as results and as arguments; so do those that only resemble plain data."""
    packed = pack_arguments((value, [value]), {"named": value}, service="kv", method="put")
    found = [travelled(value), *unpack(packed)[0], unpack(packed)[1]["named"]]
    alone = unpack(pack_arguments((value, 2), {}, service="kv", method="put"))
    assert alone == ((value, 2), {})
    assert [type(each) for each in [*found, alone[0][0]]] == [type(value), type(value), list, type(value), type(value)]


# -- exceptions ------------------------------------------------------------------------------------------------------


def test_code_that_travels_says_where_its_source_lies():
    """Code sent by value keeps its file name, so tracebacks show its source lines, as in a notebook."""
    assert unpack(pack((lambda: None).__code__)).co_filename == __file__
