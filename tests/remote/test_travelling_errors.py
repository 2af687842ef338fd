"""Exceptions arrive as themselves, with causes, notes and places. What cannot be sent is told of."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from types import ModuleType
from typing import Any

import pytest

from sage_deploy_remote.payloads.errors import LONGEST_TEXT, pack_error, unpack_error
from sage_plugins import errors
from sage_plugins.errors import CallTimeoutError, RemoteError
from travelled_values import AT, LOCK, travelled


def travelled_error(error: BaseException) -> BaseException:
    return unpack_error(pickle.loads(pickle.dumps(pack_error(error, **AT), 5)))  # noqa: S301 - as above


class TwoArgumentsError(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


class PrefixedError(Exception):
    """An error that adds its prefix twice if it is unpickled through its constructor."""

    def __init__(self, text):
        super().__init__(f"prefix {text}")


class KeywordOnlyError(Exception):
    def __init__(self, *, code):
        super().__init__()
        self.code = code


class NoTextError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class NoReduceError(Exception):
    def __reduce__(self):
        raise RuntimeError("no reduce")


class BecomesError(Exception):
    def __reduce__(self):
        return ValueError, self.args


class NotEqualError(Exception):
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("not comparable")


class HoldsError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = LOCK


class ExitsError(Exception):
    def __reduce__(self):
        raise SystemExit(3)


class ReturnsError(Exception):
    def __reduce__(self):
        return str, ("not an exception",)

    def __new__(cls, *args):
        if args == ("again",):
            return super().__new__(cls)
        return "no exception"


class NoNotesError(Exception):
    add_note = None


class NoCauseError(Exception):
    @property
    def __cause__(self):
        raise RuntimeError("no cause")


def local_error(*args: Any) -> Exception:
    class LocalError(Exception):
        pass

    return LocalError(*args)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return *error* raised as a method does: with a traceback, while another error is handled."""
    try:
        try:
            raise KeyError("before")  # noqa: TRY301 - handled while the other error is raised
        except KeyError:
            if cause is not None:
                raise error from cause
            raise error  # noqa: B904 - the test checks its context
    except BaseException as caught:  # noqa: BLE001 - this is the raised error
        return caught


def decoding() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error


def opening() -> Exception:
    try:
        open("/there/is/none")  # noqa: PTH123, SIM115 - it raises
    except OSError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3, None, float("nan")),
        TwoArgumentsError("text", 7),
        PrefixedError("text"),
        KeywordOnlyError(code=7),
        NoTextError("text"),
        NoReduceError("text"),
        BecomesError("text"),
        NotEqualError("text"),
        NoNotesError("text"),
        ValueError(object()),
        StopIteration(4),
        ImportError("text", name="module"),
        decoding(),
        opening(),
        CallTimeoutError("late", stage="run", service="kv"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_arrives_as_itself(error):
    """An exception keeps its type, arguments and attributes, whatever its methods or its constructor do."""
    arrived = travelled_error(raised(error))

    assert type(arrived) is type(error)
    assert [repr(arg).partition(" at ")[0] for arg in arrived.args] == [
        repr(arg).partition(" at ")[0] for arg in error.args
    ]
    attributes = {name: value for name, value in vars(arrived).items() if name != "__notes__"}
    assert attributes == vars(error)
    if not isinstance(error, (NoTextError, ValueError)):
        assert str(arrived) == str(error)


def test_an_exception_of_a_class_made_inside_a_function_is_caught_by_it():
    """`except` with a local exception class also catches the exception that has arrived."""
    error = local_error("text")
    arrived = travelled_error(error)
    assert type(arrived) is type(error)
    assert arrived.args == ("text",)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (HoldsError("text"), "error.lock: cannot pickle '_thread.lock' object"),
        (SystemExit("text"), "it would end its caller"),
        (KeyboardInterrupt("text"), "it would end its caller"),
        (GeneratorExit("text"), "it would end its caller"),
    ],
)
def test_an_exception_that_cannot_travel_is_told_of(error, why):
    """An exception that cannot be sent arrives as RemoteError, with type, text, traceback, call and reason."""
    arrived = travelled_error(raised(error))

    assert type(arrived) is RemoteError
    assert arrived.original_message == "text"
    assert arrived.type_name.endswith(type(error).__name__)
    assert "in raised\n    raise error" in arrived.traceback_text
    assert {name: getattr(arrived, name) for name in AT} == AT
    name = arrived.type_name
    assert str(arrived).startswith(f"kv.put (replica kv#0 on node-a1) raised {name}: text\nIt cannot be raised here")
    assert why in str(arrived)


@pytest.mark.parametrize(
    "error", [ExitsError("text"), NoCauseError("text"), ReturnsError.__new__(ReturnsError, "again")]
)
def test_nothing_that_an_exception_does_escapes(error):
    """Errors that an exception's own methods raise do not escape while it is sent."""
    assert isinstance(travelled_error(error), (RemoteError, NoCauseError, ExitsError))


class ExitsThereError(Exception):
    def __reduce__(self):
        return _exit_there, ()


def _exit_there():
    if threading.current_thread() is not threading.main_thread():
        raise SystemExit(3)
    return ExitsThereError()


def test_exception_that_exits_where_it_arrives_is_told_of():
    """An exception that raises SystemExit only where it is unpickled arrives as RemoteError."""
    packed, arrived = pack_error(raised(ExitsThereError()), **AT), []
    thread = threading.Thread(target=lambda: arrived.append(unpack_error(packed)))
    thread.start()
    thread.join()
    (error,) = arrived
    assert isinstance(error, RemoteError)
    assert "SystemExit: 3" in str(error)


def test_an_exception_whose_class_is_missing_here_is_told_of(monkeypatch):
    """An exception whose class is missing in the receiving process arrives as RemoteError with the reason."""
    module = ModuleType("only_there")
    monkeypatch.setitem(sys.modules, "only_there", module)
    exec("class Fault(Exception): pass", vars(module))  # noqa: S102 - what the other process has
    packed = pack_error(raised(module.Fault("text")), **AT)
    monkeypatch.delitem(sys.modules, "only_there")

    arrived = unpack_error(packed)
    assert type(arrived) is RemoteError
    assert arrived.type_name == "only_there.Fault"
    assert "No module named 'only_there'" in str(arrived)


@pytest.mark.parametrize("error", [ValueError("x" * 10_000_000), TwoArgumentsError("x" * 10_000_000, 7)])
def test_a_long_text_is_cut(error):
    """The text of an exception is cut to `LONGEST_TEXT` characters, and says how long it was."""
    packed = pack_error(error, **AT)
    assert len(pickle.dumps(packed)) < 3 * LONGEST_TEXT
    arrived = unpack_error(packed)

    assert type(arrived) is type(error)
    assert len(arrived.args[0]) == LONGEST_TEXT
    assert arrived.args[0].startswith("xxx")
    assert arrived.args[0].endswith("... [cut: 10000000 characters in all]")


def test_a_long_text_of_what_cannot_travel_is_cut():
    arrived = travelled_error(HoldsError("x" * 10_000_000))
    assert len(arrived.original_message) == LONGEST_TEXT


def test_causes_contexts_and_notes_travel():
    """An exception arrives with its causes, its context and its notes."""
    error = ValueError("outer")
    error.add_note("a note")
    arrived = travelled_error(raised(error, cause=raised(TwoArgumentsError("inner", 7), cause=HoldsError("innermost"))))

    assert type(arrived.__cause__) is TwoArgumentsError
    assert type(arrived.__cause__.__cause__) is RemoteError
    assert type(arrived.__context__) is KeyError
    assert arrived.__suppress_context__
    assert arrived.__notes__[0] == "a note"
    assert not travelled_error(raised(ValueError("outer"))).__suppress_context__


def test_a_circle_of_causes_travels():
    """A circle of causes arrives as the same circle."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    arrived = travelled_error(one)
    assert arrived.__cause__.__cause__ is arrived


class Batch(ExceptionGroup):
    def derive(self, excs):
        return Batch(self.message, excs)


def test_groups_travel_with_their_members():
    """An exception group arrives with its members; a member that is also the cause stays the same object."""
    shared = ValueError("shared")
    group = Batch(
        "group", [shared, TwoArgumentsError("inner", 7), ExceptionGroup("nested", [HoldsError("text"), shared])]
    )
    group.code = 9
    arrived = travelled_error(raised(group, cause=shared))

    assert type(arrived) is Batch
    assert (arrived.message, arrived.code) == ("group", 9)
    assert [type(member) for member in arrived.exceptions] == [ValueError, TwoArgumentsError, ExceptionGroup]
    assert [type(member) for member in arrived.exceptions[2].exceptions] == [RemoteError, ValueError]
    assert arrived.exceptions[0] is arrived.__cause__
    assert arrived.args == (arrived.message, list(arrived.exceptions))


def test_a_group_with_too_many_members_is_told_of():
    """A group with too many members arrives as RemoteError that says so."""
    arrived = travelled_error(ExceptionGroup("group", [ValueError(index) for index in range(2000)]))
    assert type(arrived) is RemoteError
    assert "too many members" in str(arrived)


def test_who_prints_an_exception_sees_where_it_was_raised():
    """A printed exception shows the remote traceback of itself, its cause and its context."""
    arrived = travelled_error(raised(ValueError("text"), cause=raised(KeyError("inner"))))
    printed = "".join(traceback.format_exception(arrived))

    assert printed.count("remote traceback (replica kv#0 on node-a1):\n  File ") == 3  # with the context
    assert "in raised\n    raise error from cause" in printed
    assert str(arrived) == "text"


def test_each_process_on_the_way_is_seen():
    """If a service passes on the exception of another one, its notes show the traceback of each process."""
    first = travelled_error(raised(ValueError("text")))
    second = unpack_error(pack_error(raised(first), service="web", method="get", replica="web#1", node=None))
    notes = [note.partition(":")[0] for note in second.__notes__]
    assert notes == ["remote traceback (replica kv#0 on node-a1)", "remote traceback (replica web#1)"]


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_errors_of_the_core_travel_with_their_attributes(name):
    error = getattr(errors, name)("text")
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)
