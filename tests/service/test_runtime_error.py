"""`as_runtime_error`: an error that is also a RuntimeError, what it keeps, and how it is pickled and copied."""

from __future__ import annotations

import copy
import errno
import pickle
import traceback
from typing import ClassVar

import pytest

from sage_plugins import errors
from sage_plugins.service.runtime_errors import as_runtime_error


class PlainError(Exception):
    """A typical exception of users: it takes more arguments than it passes on."""

    def __init__(self, code, *, where):
        super().__init__(f"code {code}")
        self.code = code
        self.where = where


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__()
        self.code = code

    def __str__(self):
        return f"slot {self.code}"


class FrozenError(Exception):
    """Like a frozen attrs class: its attributes cannot be set."""

    def __init__(self, code):
        super().__init__(code)
        self.__dict__["code"] = code

    def __setattr__(self, name, value):
        raise TypeError(name)


class OwnNewError(Exception):
    made: ClassVar = []

    def __new__(cls, first, second):
        cls.made.append(first)
        return super().__new__(cls, first)

    def __init__(self, first, second):
        super().__init__(first)


class TravelsError(Exception):
    """Pickles with `__reduce__`, because its arguments alone would not be enough."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return TravelsError, (self.code, self.args[0])


def raised(error, cause):
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def group():
    return ExceptionGroup("several", [KeyError("a"), ValueError("b")])


def from_file():
    return FileNotFoundError(errno.ENOENT, "No such file", "a.txt", None, "b.txt")


def undecodable():
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def module():
    return ModuleNotFoundError("No module named 'x'", name="x", path="p")


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (lambda: KeyError("k"), ()),
        (lambda: PlainError(42, where="there"), ("code", "where")),
        (lambda: SlottedError(7), ("code",)),
        (lambda: FrozenError(7), ("code",)),
        (lambda: OwnNewError(1, 2), ()),
        (lambda: TravelsError(1, "text"), ("code",)),
        (from_file, ("errno", "strerror", "filename", "filename2")),
        (lambda: OSError("only text"), ("errno", "strerror", "filename")),
        (undecodable, ("encoding", "object", "start", "end", "reason")),
        (module, ("name", "path")),
        (lambda: StopIteration(3), ("value",)),
        (group, ("message", "exceptions")),
        (lambda: errors.PlanError("bad", problems=()), ("problems",)),
    ],
)
def test_error_is_both_and_keeps_all_that_it_held(make, attributes):
    """The new error is caught as its own type and as RuntimeError, and keeps text, attributes, notes and traceback."""
    error = raised(make(), LookupError("before"))
    error.__dict__["__notes__"] = ["a note"]

    both = as_runtime_error(error)

    assert isinstance(both, RuntimeError)
    assert isinstance(both, type(error))
    assert both is not error
    assert (str(both), repr(both), both.args) == (str(error), repr(error), error.args)
    assert [getattr(both, name) for name in attributes] == [getattr(error, name) for name in attributes]
    assert both.__notes__ == ["a note"]
    assert (both.__cause__, both.__traceback__) == (error.__cause__, error.__traceback__)
    assert traceback.format_exception(both) == traceback.format_exception(error)
    assert type(both).__qualname__ == type(error).__qualname__


def test_no_code_of_the_class_runs():
    """The constructor does not run again."""
    error = OwnNewError("once", 2)
    OwnNewError.made.clear()
    assert as_runtime_error(error).args == ("once",)
    assert OwnNewError.made == []


def test_the_original_stays_as_it_is():
    """The original error is unchanged, since others may hold it."""
    error = PlainError(1, where="w")
    both = as_runtime_error(error)
    both.code = 2
    assert (type(error), error.code, error.args) == (PlainError, 1, ("code 1",))


@pytest.mark.parametrize("cause", [None, LookupError("cause")], ids=repr)
@pytest.mark.parametrize("suppress", [False, True])
def test_what_happened_before_is_shown_as_it_was(suppress, cause):
    """Cause, context and `from None` are kept."""
    error = KeyError("k")
    error.__cause__ = cause
    error.__context__ = ValueError("before")
    error.__suppress_context__ = suppress
    both = as_runtime_error(error)
    assert both.__context__ is error.__context__
    assert both.__suppress_context__ is suppress


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("r"),
        errors.ServiceNotFoundError("no"),
        RecursionError(),
        TimeoutError("late"),
        errors.CallTimeoutError("late"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=repr,
)
def test_what_is_left_as_it_is(error):
    """A RuntimeError, a timeout, and exceptions that end the program are returned unchanged."""
    assert as_runtime_error(error) is error


def test_class_that_cannot_be_derived_from_is_left_as_it_is():
    """An error whose class cannot be subclassed is returned unchanged."""

    class LastError(Exception):
        def __init_subclass__(cls):
            msg = "nobody derives from this"
            raise TypeError(msg)

    error = LastError("f")
    assert as_runtime_error(error) is error


def test_classes_are_made_once():
    """Errors of one class give errors of one class."""
    assert type(as_runtime_error(PlainError(1, where="a"))) is type(as_runtime_error(PlainError(2, where="b")))


def pickled(error):
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - made here


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", [KeyError("k"), TravelsError(1, "text"), from_file()], ids=repr)
def test_it_travels_as_the_original_does(error, again):
    """The error can be pickled and copied like the original; its class is made again on arrival."""
    both = as_runtime_error(error)
    both.add_note("added on the way")

    arrived = again(both)

    assert isinstance(arrived, RuntimeError)
    assert type(arrived) is type(both)
    assert str(arrived) == str(error)
    assert getattr(arrived, "code", None) == getattr(error, "code", None)
    if not isinstance(error, TravelsError):  # its `__reduce__` loses notes
        assert arrived.__notes__ == ["added on the way"]
