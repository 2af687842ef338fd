"""
Packs the spec of a replica for the process that builds it.

The caller's own modules, including that of the service's class, travel as source text: see `modules`. Definitions from
`__main__`, from notebooks and inside functions travel as code: see `payloads.code`. Installed modules and plugins are
imported where they arrive. Any thread may call these functions.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

from sage_deploy_remote.payloads.code import DefinitionPickler, dumps
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_remote.payloads.unpicklable import describe
from sage_deploy_remote.shipping import modules, versions
from sage_plugins.errors import DeployError, line_of
from sage_plugins.values import Problem, ReplicaSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["pack_spec", "problems", "unpack_spec"]

_FIX = "build it in __init__ or setup(), which run where the replica does"


def pack_spec(spec: ReplicaSpec, substrate: Substrate = PLAIN) -> bytes:
    """
    Pack a spec for `unpack_spec` in another process.

    Args:
        spec: The spec.
        substrate: Carries the packed spec.

    Raises:
        DeployError: A part of it cannot be pickled; the message has the path to that part.
    """
    try:
        payload = dumps(spec, DefinitionPickler, substrate)
    except Exception as error:
        reasons = "; ".join(problem.message for problem in problems(spec, substrate)) or line_of(error)
        msg = f"replica {spec.id} cannot be sent to another process: {reasons} ({_FIX})"
        raise DeployError(msg, service=spec.service, replica=spec.id) from error
    return pickle.dumps((versions.own_version(), spec.service, spec.id, modules.gather(), payload), 5)


def unpack_spec(data: bytes) -> ReplicaSpec:
    """
    Return the spec that `pack_spec` packed; modules that came with it can be imported from then on.

    Raises:
        DeployError: A module that it needs is missing here or fails to import. Or another version packed the spec,
            which happens if a replica outlives the process that deployed it.
    """
    theirs, service, *rest = pickle.loads(data)  # noqa: S301 - from a process of this deployment
    problem = versions.difference("the process that deployed it", theirs)
    if problem is not None:
        raise DeployError(f"replicas of service '{service}' cannot be understood here: {problem}", service=service)
    replica, sources, payload = rest
    modules.install(sources)
    try:
        return cast("ReplicaSpec", unpack(payload))
    except (Exception, SystemExit) as error:  # importing a module may do anything
        msg = f"replica {replica} cannot be built here: {line_of(error)}. {_way_out(error)}"
        raise DeployError(msg, service=service, replica=replica) from error


def problems(spec: ReplicaSpec, substrate: Substrate = PLAIN) -> list[Problem]:
    """Return a problem E703 for each part of *spec* that cannot be sent to another process."""
    found = []
    for key, what, name, part in _parts(spec, substrate):
        error = _refusal(part, substrate)
        if error is not None:
            message = f"{what} of service {spec.service!r} cannot be pickled: {describe(part, name, error, substrate)}"
            found.append(Problem("E703", key, message, _FIX))
    return found


def _parts(spec: ReplicaSpec, substrate: Substrate) -> Iterator[tuple[str, str, str, Any]]:
    """Yield each part that the user gave: its key in the configuration, its description, its path, its value."""
    factory = spec.factory
    cls = getattr(factory, "service_class", None)
    name = getattr(cls, "__qualname__", "class")
    parts = [("class", "the class", name, cls)]
    for index, arg in enumerate(getattr(factory, "service_args", ())):
        nth = f"argument {index + 1}"
        parts.append((f"init.args.{index}", f"the constructor's {nth}", f"{nth} of {name}.__init__", arg))
    for key, arg in getattr(factory, "service_kwargs", {}).items():
        parts.append((f"init.kwargs.{key}", f"the constructor's argument {key!r}", f"{name}.__init__({key}=...)", arg))
    yield from parts
    if all(_refusal(part, substrate) is None for *_, part in parts):
        yield "class", "the factory", "factory", factory
    yield "threading_strategy", "the threading strategy", "strategy", spec.strategy
    yield "monitors", "a monitor", "monitors", spec.monitors
    yield "user_config", "the configuration", "config", spec.config


def _refusal(part: Any, substrate: Substrate) -> Exception | None:
    try:
        dumps(part, DefinitionPickler, substrate)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return error
    return None


def _way_out(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"Install {error.name} on every node (Ray's runtime_env can do that). A module of your own goes along "
            "by itself if it was imported when you deployed, or belongs to a package that was"
        )
    return "Have the same versions of Python and of all packages on every node"
