"""Problems with their places in a file, shown as `file:line:column: error ID: what (what to do)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from sage_plugins.config.field_checks import shown
from sage_plugins.config.secrets import HIDDEN, is_secret
from sage_plugins.errors import ConfigError
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

from sage_plugins.texts import one_line

__all__ = ["LISTED", "FileProblem", "Position", "as_written", "in_order", "placed", "refuse", "shown_from"]

#: Further problems are only counted: one mistake often causes many.
LISTED: Final = 20


@attrs.frozen
class Position:
    """A place in a file. Lines and columns count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        """Return a text such as `7:13`."""
        return f"{self.line}:{self.column}"


@attrs.frozen(kw_only=True)
class FileProblem(Problem):
    """
    A problem with its place in a file.

    Attributes:
        path: The file, as the caller named it.
        line: Line, from 1.
        column: Column in characters, from 1.
        section: The part of the file that `key` is relative to, such as `"services.kv"`. Empty: the file itself.
        other_at: Place of the conflicting value, or None if it is not in the file.
    """

    path: str = ""
    line: int = 1
    column: int = 1
    section: str = ""
    other_at: Position | None = None

    @property
    def problem(self) -> Problem:
        """The problem without its place."""
        return Problem(self.id, self.key, self.message, self.fix, self.other)

    def __str__(self) -> str:
        """Return one line: `file:line:column: error E303: services.kv.replicas: message [other at 3:7] (fix)`."""
        key = ".".join(part for part in (self.section, self.key) if part)
        what = f"{one_line(key)}: {self.message}" if key else self.message
        if self.other:
            what += f" [{self.other} {'has its default' if self.other_at is None else f'at {self.other_at}'}]"
        fix = f" ({self.fix})" if self.fix else ""
        place = f"{one_line(self.path)}:{self.line}:{self.column}"
        return f"{place}: {self.severity} {self.id}: {one_line(what + fix, 700)}"


def placed(
    problem: Problem, path: str, at: Position, section: str = "", other_at: Position | None = None
) -> FileProblem:
    """Add the place to *problem*."""
    return FileProblem(
        id=problem.id,
        key=problem.key,
        message=problem.message,
        fix=problem.fix,
        other=problem.other,
        path=path,
        line=at.line,
        column=at.column,
        section=section,
        other_at=other_at,
    )


def shown_from(value: object, variables: Sequence[str]) -> str:
    """Return a value as messages show it, with the environment variables in it. Secrets are hidden."""
    if not variables:
        return shown(value)
    names = " ".join(f"${name}" for name in variables)
    return f"{HIDDEN if any(map(is_secret, variables)) else shown(value)} from {names}"


def as_written(problem: Problem, value: object, written: object, variables: Sequence[str]) -> Problem:
    """
    Return the problem with a message that shows the value as the file has it.

    Args:
        problem: What is wrong with the value.
        value: The converted value, such as a number of seconds for a duration.
        written: The value in the file.
        variables: Names of the environment variables in it.
    """
    old = shown(value)
    if variables:
        new = shown_from(written, variables)
    elif isinstance(written, str) and not isinstance(value, str):
        new = f"{written}, which is {old}"
    else:
        return problem
    # Quotes delimit a text. A number may be part of another one, so `got ` has to precede it.
    got = "" if isinstance(value, str) else "got "
    message = problem.message.replace(got + old, got + new)
    return attrs.evolve(problem, message=message)


def in_order(problems: Iterable[FileProblem]) -> list[FileProblem]:
    """Return errors first, then warnings, each in the order of the file."""
    return sorted(problems, key=lambda problem: (problem.severity == "warning", problem.line, problem.column))


def refuse(path: str, problems: Iterable[FileProblem]) -> NoReturn:
    """
    Raise a `ConfigError` that lists *problems*.

    Raises:
        ConfigError: Always. Its `problems` has all of them, its message the first `LISTED`.
    """
    ordered = in_order(problems)
    lines = [f"\n  {problem}" for problem in ordered[:LISTED]]
    if len(ordered) > LISTED:
        lines.append(f"\n  and {len(ordered) - LISTED} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    raise ConfigError(f"{one_line(path)} has {count}:{''.join(lines)}", problems=ordered)
