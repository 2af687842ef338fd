"""Errors that are RuntimeErrors too: what they are made of, what they keep, how they travel."""

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
    """As users write them: more arguments than it keeps."""

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
    """As frozen attrs classes: nothing can be set from outside."""

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
    """Pickles in its own way, which its arguments alone would not allow."""

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
    """It is caught as its own type and as RuntimeError, and looks and reads as before."""
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
    """It is not constructed a second time."""
    error = OwnNewError("once", 2)
    OwnNewError.made.clear()
    assert as_runtime_error(error).args == ("once",)
    assert OwnNewError.made == []


def test_the_original_stays_as_it_is():
    """Others may hold it: the service that raised it, for one."""
    error = PlainError(1, where="w")
    both = as_runtime_error(error)
    both.code = 2
    assert (type(error), error.code, error.args) == (PlainError, 1, ("code 1",))


@pytest.mark.parametrize("cause", [None, LookupError("cause")], ids=repr)
@pytest.mark.parametrize("suppress", [False, True])
def test_what_happened_before_is_shown_as_it_was(suppress, cause):
    """`raise ... from None` stays so, and so does an error that only came while another was handled."""
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
    """A RuntimeError is one already, a timeout stays a timeout, and what ends programs is no matter of a call."""
    assert as_runtime_error(error) is error


def test_class_that_cannot_be_derived_from_is_left_as_it_is():
    class LastError(Exception):
        def __init_subclass__(cls):
            msg = "nobody derives from this"
            raise TypeError(msg)

    error = LastError("f")
    assert as_runtime_error(error) is error


def test_classes_are_made_once():
    """Two errors of one class are of one class."""
    assert type(as_runtime_error(PlainError(1, where="a"))) is type(as_runtime_error(PlainError(2, where="b")))


def pickled(error):
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - made right here


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", [KeyError("k"), TravelsError(1, "text"), from_file()], ids=repr)
def test_it_travels_as_the_original_does(error, again):
    """Its class need not be found where it arrives: it is made there again."""
    both = as_runtime_error(error)
    both.add_note("added on the way")

    arrived = again(both)

    assert isinstance(arrived, RuntimeError)
    assert type(arrived) is type(both)
    assert str(arrived) == str(error)
    assert getattr(arrived, "code", None) == getattr(error, "code", None)
    if not isinstance(error, TravelsError):  # its own way of pickling loses notes
        assert arrived.__notes__ == ["added on the way"]
