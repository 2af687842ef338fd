"""Separates a service's wrong values from those that can still be checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.cross_rules import cross_problems
from sage_plugins.config.service_config import completed, field_problems, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sage_plugins.values import Problem

__all__ = ["concerns", "without_mistakes", "without_wrong_parts", "wrong_fields"]

#: Fields that name plugins. If one is wrong, fields that its plugin would act on cannot be checked.
_NAMING: Final = ("target", "threading_strategy", "load_balancer", "monitors")


def without_wrong_parts(name: str, value: object, problems: Iterable[Problem]) -> tuple[Any, set[str]]:
    """
    Return the right part of `methods` or `options`, with an empty mapping for each entry that *problems* are about.

    Returns:
        The mapping, or None if nothing in it is right; and the paths of what is wrong.
    """
    keys = {".".join(problem.key.split(".")[:2]) for problem in problems}
    if not isinstance(value, dict) or name in keys:
        return None, {name}
    wrong = {key.partition(".")[2] for key in keys}
    right = {
        key: {} if key in wrong else child
        for key, child in value.items()
        if key not in wrong or not field_problems(name, {key: {}})
    }
    return (None, {name}) if field_problems(name, right) else (right, keys)


def without_mistakes(values: Mapping[str, Any], bad: Iterable[str]) -> tuple[dict[str, Any], frozenset[str]]:
    """
    Return the values of a service that can be checked further, and the paths that cannot.

    Args:
        values: The fields that are set, each valid on its own.
        bad: What is set wrongly: fields, or paths such as `methods.get`.
    """
    sound, unknown = dict(values), set(bad)
    while True:
        roles = {fields()[name].role for name in unknown.intersection(_NAMING)}
        unknown |= {name for name, info in fields().items() if info.role in roles}
        for name in unknown:
            sound.pop(name, None)
        wrong = wrong_fields(cross_problems(completed(sound)))
        if wrong <= unknown:  # always true in the end, because defaults do not conflict with each other
            return sound, frozenset(unknown)
        unknown |= wrong


def wrong_fields(problems: Iterable[Problem]) -> set[str]:
    """Return the fields that are wrong, alone or together, according to the errors among *problems*."""
    return {
        path.partition(".")[0]
        for problem in problems
        if problem.severity == "error"
        for path in (problem.key, problem.other)
        if path
    }


def concerns(problem: Problem, unknown: Collection[str]) -> bool:
    """Whether a problem is about an *unknown* value: it would repeat a known error, or be false."""
    if problem.id == "E704" and "init" in unknown:  # the argument that seems to be missing may be in the wrong part
        return True
    return any(
        path.startswith(f"{name}.") or (path == name and "." not in name)
        for name in unknown
        for path in (problem.key, problem.other)
    )
