"""
Saves a plan to a file, to review it now and execute it later.

Executing makes a new plan from the deployment file, and is refused if that differs from the saved one. So the plan file
needs no secrets and need not be trusted.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_cli.runs.whole_file import write_whole
from sage_deploy_files.bounded_file import UnreadableError, read_bounded
from sage_deploy_files.reading.problems import LISTED, FileProblem
from sage_plugins.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.planning.plan import DeploymentPlan

__all__ = ["SavedPlan", "check_fresh", "read_plan", "save_plan"]

#: Key that marks a plan file; its value is the version of the format.
_MARK: Final = "sage_deploy_plan"
_VERSION: Final = 1
#: A service takes about 20 KB, so this is room for a few thousand services.
_MAX_BYTES: Final = 64 * 1024 * 1024


@attrs.frozen
class SavedPlan:
    """
    A saved plan.

    Attributes:
        path: The plan file.
        file: Absolute path of the deployment file.
        profile: The chosen profile, or None.
        essence: What the plan would do, as `DeploymentPlan.essence` returns it.
    """

    path: Path
    file: Path
    profile: str | None
    essence: dict[str, dict[str, Any]]


def save_plan(path: Path, plan: DeploymentPlan, file: Path, profile: str | None) -> None:
    """
    Write a plan to *path*, whole or not at all. Only its owner may read it.

    Args:
        path: The plan file. An existing file is replaced.
        plan: The plan.
        file: The deployment file.
        profile: The chosen profile.

    Raises:
        OSError: The file cannot be written.
    """
    content = {
        _MARK: _VERSION,
        "file": str(file.resolve()),
        "profile": profile,
        "essence": plan.essence(),
        "plan": plan.to_dict(),
    }
    text = json.dumps(content, indent=2) + "\n"
    if len(text) > _MAX_BYTES:  # the text is ASCII, so characters are bytes
        raise OSError(errno.EFBIG, f"the plan has {len(text)} bytes, and `up` takes {_MAX_BYTES} at most")
    write_whole(path, text, private=True)


def read_plan(path: Path) -> SavedPlan | None:
    """
    Read a plan file. Return None if *path* is no plan file, for instance a deployment file.

    Raises:
        ConfigError: The plan file is damaged or of another version.
    """
    try:
        data = read_bounded(path, _MAX_BYTES)
    except UnreadableError:
        return None  # reading it as a deployment file will say why
    if f'"{_MARK}"'.encode() not in data[:200]:
        return None
    try:
        content = json.loads(data)
        version = content[_MARK]
        saved = _saved(path, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _refused(path, "E110", "the plan file is damaged", "plan again") from None
    if version != _VERSION:
        raise _refused(path, "E103", f"the plan file is of version {version!r:.20}, not {_VERSION}", "plan again")
    return saved


def _saved(path: Path, content: dict[str, Any]) -> SavedPlan:
    """
    Convert the content of a plan file, which somebody may have changed.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: `save_plan` cannot have written this.
    """
    file, profile, essence = content["file"], content["profile"], content["essence"]
    os.fsencode(file)  # raises for a name that the file system cannot have
    if "\0" in file or not isinstance(profile, (str, type(None))):
        raise ValueError(file, profile)
    return SavedPlan(path, Path(file), profile, {name: {**does} for name, does in essence.items()})


def _refused(path: Path, id: str, message: str, fix: str) -> ConfigError:
    problem = FileProblem(id=id, key="", message=message, fix=fix, path=str(path))
    return ConfigError(str(problem), problems=[problem])


def check_fresh(saved: SavedPlan, plan: DeploymentPlan) -> None:
    """
    Refuse a saved plan if *plan*, made just now, would do anything else.

    Raises:
        PlanError: E805 for each difference.
    """
    problems = [
        FileProblem(
            id="E805",
            key=key,
            message=f"the plan is stale: {_words(before)} when it was made, {_words(now)} now",
            fix="plan again, and look at the new plan",
            path=str(saved.path),
        )
        for key, before, now in _differences(saved.essence, plan.essence())
    ]
    if problems:
        lines = [str(problem) for problem in problems[:LISTED]]
        if len(problems) > LISTED:
            lines.append(f"and {len(problems) - LISTED} more")
        raise PlanError("\n".join(lines), problems=problems)


def _differences(
    before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, object, object]]:
    for service in {**before, **now}:
        old, new = before.get(service), now.get(service)
        if old is None or new is None:
            yield f"services.{service}", old and old.get("action"), new and new.get("action")
            continue
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                yield f"services.{service}.{key}", old.get(key), new.get(key)


def _words(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)[:80]
