"""
Checks the name of a service and the keys of its entry.

Both Python code and the reader of files use this, so both accept the same and give the same messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.field_checks import SUGGESTIONS, Wrong, key_problem, known_keys, shown
from sage_plugins.config.service_config import GROUPS, ServiceDeploymentConfig, checked, fields, group_of, refuse
from sage_plugins.errors import ConfigError
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_service_name", "config_of", "misplaced_key", "name_problem"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def name_problem(kind: str, name: object) -> Problem | None:
    """Return E103 (with an empty key) if *name* cannot be the name of a *kind*, such as `"service"`; else None."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    fix = "use a letter, then at most 62 letters, digits, '_' and '-'"
    return Problem("E103", "", f"{shown(name)} is not the name of a {kind}", fix)


def check_service_name(name: object) -> None:
    """
    Check that *name* can be a service's name.

    Raises:
        ConfigError: It cannot.
    """
    problem = name_problem("service", name)
    if problem is not None:
        raise ConfigError(f"{problem.message}: {problem.fix}", problems=[problem])


def misplaced_key(name: str, group: str | None, own: Sequence[str] = (), *, suggest: bool = True) -> Problem | None:
    """
    Return the problem of the key *name* in the entry of a service; None if it belongs there.

    Args:
        name: The key.
        group: The group that contains it; None for the entry's own level.
        own: Keys that are allowed on the entry's own level, in addition to groups and fields.
        suggest: Whether to look for the key that was meant.
    """
    if group is not None:
        return _misplaced_in_group(name, group, own, suggest=suggest)
    if name in fields() or name in GROUPS or name in own:
        return None
    near = did_you_mean(name, [*own, *GROUPS, *fields()]) if suggest else None
    fix = f"did you mean {near!r}?" if near else f"keys: {', '.join([*own, *GROUPS])}, and all fields"
    return Problem("E101", name, f"unknown key {shown(name)}", fix)


def _misplaced_in_group(name: str, group: str, own: Sequence[str], *, suggest: bool) -> Problem | None:
    key = f"{group}.{name}"
    if name in fields() or name in GROUPS or name in own:
        home = group_of(name) if name in fields() else None
        if home == group:
            return None
        return Problem("E101", key, f"belongs {_home_words(home)}, not to {group}", f"move it {_home_words(home)}")
    inside = [field for field, info in fields().items() if info.group == group]
    near = did_you_mean(name, inside) if suggest else None
    fix = f"did you mean {near!r}?" if near else ""
    if not near and suggest:
        near = did_you_mean(name, fields())
        home_words = f"did you mean {near!r}, which belongs {_home_words(group_of(near))}?" if near else ""
        fix = home_words or known_keys(inside)
    return Problem("E101", key, f"unknown key {shown(name)}", fix)


def _home_words(group: str | None) -> str:
    return "to the service's own level" if group is None else f"to {group}"


def config_of(given: object) -> ServiceDeploymentConfig:
    """
    Return the configuration for the argument `deployment_config`: a `ServiceDeploymentConfig` or a mapping.

    A mapping has the same keys as a service's entry in a file.

    Raises:
        ConfigError: It is neither of these, or the mapping is not valid. `problems` has all problems.
    """
    if isinstance(given, ServiceDeploymentConfig):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"deployment_config must be a ServiceDeploymentConfig or a mapping, got {shown(given)}")
    flat, problems = _flat(given)
    values, more = checked(flat)
    problems += more
    if problems:
        refuse("deployment_config", problems)
    return ServiceDeploymentConfig(**values)


def _flat(given: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the fields of a mapping, inside and outside groups, and the problems of its keys."""
    flat: dict[str, Any] = {}
    problems: list[Problem] = []

    def take(name: Any, value: Any, group: str | None) -> None:
        if not isinstance(name, str):
            problems.append(key_problem(group or "deployment_config", name))
            return
        wrong = misplaced_key(name, group, suggest=len(problems) < SUGGESTIONS)
        if wrong is not None:
            problems.append(wrong)
        elif name in flat:
            problems.append(Problem("E104", name, "is set a second time", f"remove it here or from {group_of(name)}"))
        else:
            flat[name] = value

    for name, value in given.items():
        if name not in GROUPS:
            take(name, value, None)
        elif isinstance(value, Mapping):
            for inner, child in value.items():
                take(inner, child, name)
        else:
            problems.append(Wrong("a mapping").problem(name, value))
    return flat, problems
