"""Finds the methods that a class serves, reads their marks, and decides the settings of each method."""

from __future__ import annotations

import inspect
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sage_plugins.values import GENERATORS, BatchPlan, MethodKind, MethodPlan, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "LIFECYCLE_HOOKS",
    "batch_of",
    "idempotent",
    "is_served",
    "kind_of",
    "method_plans",
    "needs_no_argument",
    "parameters_of",
    "served_names",
]

#: Methods that the core calls and callers cannot.
LIFECYCLE_HOOKS: Final = frozenset(
    {
        "setup",
        "start_running",
        "start",
        "warmup",
        "check_health",
        "check_ready",
        "reconfigure",
        "stop",
        "cleanup",
        "close",
    }
)

_Method = TypeVar("_Method", bound="Callable[..., Any]")

#: Attributes that the decorators set on methods.
_IDEMPOTENT: Final = "__sage_idempotent__"
_BATCH_OF: Final = "__sage_batch_of__"


def idempotent(method: _Method) -> _Method:
    """
    Declare that *method* may run twice for one call without harm.

    If a replica dies while an idempotent method runs, the call runs again, provided that `failover_enabled` is set.
    Other methods do not run again. On target `local` this changes nothing, because replicas die only with their
    process.

    Example:
        ```python
        class KVService:
            @idempotent
            def get(self, key): ...
        ```
    """
    setattr(method, _IDEMPOTENT, True)
    return method


def batch_of(name: str) -> Callable[[_Method], _Method]:
    """
    Declare that a method answers several calls of the method *name* at once.

    Callers call *name* as before. Calls are answered in batches only if the configuration says so, with `batch_size` or
    `methods.<name>.batch`.

    The batch method gets one list for each parameter of *name*, with one entry for each call. It returns a list with
    one result for each call, in the same order. An exception in that list fails only its call. If the batch method
    raises, all calls fail.

    Example:
        ```python
        class Embedder:
            def embed(self, text: str) -> list[float]: ...

            @batch_of("embed")
            def embed_many(self, texts: list[str]) -> list[list[float]]: ...
        ```
    """

    def mark(method: _Method) -> _Method:
        setattr(method, _BATCH_OF, name)
        return method

    return mark


def method_plans(cls: type, config: Any) -> tuple[tuple[MethodPlan, ...], list[Problem]]:
    """
    Return the served methods of *cls*, sorted by name, and the problems of their settings.

    Args:
        cls: The service's class.
        config: Its configuration, for `timeout`, `batch_size`, `batch_wait` and `methods`.
    """
    names = served_names(cls)
    batch_methods = {of: name for name in names if (of := getattr(getattr(cls, name), _BATCH_OF, None)) is not None}
    problems = [
        *_unknown_methods(cls, config, names),
        *_batch_problems(cls, config, names, batch_methods),
    ]
    batches = {} if problems else {of: _batch_plan(cls, of, name, config) for of, name in batch_methods.items()}
    plans = tuple(_plan(index, name, getattr(cls, name), config, batches) for index, name in enumerate(names))
    return plans, problems


def served_names(cls: type) -> list[str]:
    """Return the names of the methods that *cls* serves: public, callable, and not a life-cycle hook."""
    return [name for name in dir(cls) if is_served(cls, name)]


def is_served(cls: type, name: str) -> bool:
    """Whether *cls* serves a method of that *name*."""
    if name.startswith("_") or name in LIFECYCLE_HOOKS:
        return False
    found = inspect.getattr_static(cls, name, None)
    return found is not None and _is_method(found, cls, name)


def needs_no_argument(cls: type, name: str) -> bool:
    """Whether the method *name* can be called without arguments; False if its signature cannot be read."""
    parameters = parameters_of(cls, name)
    return parameters is not None and all(
        each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )


def _is_method(found: Any, cls: type, name: str) -> bool:
    if isinstance(found, (property, type)):
        return False
    try:
        return callable(getattr(cls, name, None))
    except Exception:  # noqa: BLE001 - a user's descriptor may raise anything; then it is not a method
        return False


def _plan(index: int, name: str, method: Any, config: Any, batches: Mapping[str, BatchPlan | None]) -> MethodPlan:
    settings = config.methods.get(name, {})
    timeout = settings.get("timeout", config.timeout)
    return MethodPlan(
        index=index,
        name=name,
        kind=kind_of(method),
        idempotent=settings.get("idempotent", bool(getattr(method, _IDEMPOTENT, False))),
        timeout=inf if timeout is None else float(timeout),
        max_concurrency=settings.get("max_concurrency"),
        batch=batches.get(name),
    )


def kind_of(method: Any) -> MethodKind:
    """Return what calling *method* returns: a value, a coroutine or a generator."""
    if inspect.isasyncgenfunction(method):
        return MethodKind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(method):
        return MethodKind.ASYNC
    if inspect.isgeneratorfunction(method):
        return MethodKind.GENERATOR
    return MethodKind.SYNC


def _unknown_methods(cls: type, config: Any, names: list[str]) -> Iterator[Problem]:
    for name in sorted(set(config.methods) - set(names)):
        message = f"{cls.__qualname__} serves no method {name!r}"
        yield Problem("E505", f"methods.{name}", message, _nearest(name, names))


def _nearest(name: str, names: list[str]) -> str:
    from sage_plugins.texts import did_you_mean

    near = did_you_mean(name, names)
    return f"did you mean {near!r}?" if near else f"it serves {', '.join(names) or 'none'}"


# -- batches -----------------------------------------------------------------------------------------------------------


def _batch_plan(cls: type, of: str, name: str, config: Any) -> BatchPlan | None:
    """Return how the batch method *name* answers calls of the method *of*; None if calls are answered one by one."""
    wanted = config.methods.get(of, {}).get("batch")
    own = wanted if wanted is not None and wanted is not True else {}
    size = own.get("size", config.batch_size) or 1
    if size == 1:
        return None
    return BatchPlan(name, kind_of(getattr(cls, name)), size, float(own.get("wait", config.batch_wait)))


def _batch_problems(cls: type, config: Any, names: list[str], batch_methods: Mapping[str, str]) -> Iterator[Problem]:
    for of, name in batch_methods.items():
        wrong = _wrong_batch(cls, of, name, names)
        if wrong:
            message = f"{cls.__qualname__}.{name} is marked @batch_of({of!r}), but {wrong}"
            yield Problem("E506", "class", message, "change the method, or remove the mark")
    size = config.batch_size or 1
    for method, settings in config.methods.items():
        wanted = settings.get("batch")
        if wanted is None or method not in names:
            continue
        key = f"methods.{method}.batch"
        if method not in batch_methods:
            fix = f"mark a method that takes lists with @batch_of({method!r}), or remove it"
            yield Problem("E501", key, f"{cls.__qualname__} has no batch method for {method!r}", fix)
        elif size == 1 and (wanted is True or wanted.get("size", 1) == 1):
            yield Problem(
                "W15", key, "has no effect: the batch would have one call", "give it a size, or set batch_size"
            )
    if size > 1 and not batch_methods:
        message = f"has no effect: {cls.__qualname__} has no batch method"
        yield Problem("W15", "batch_size", message, "mark a method that takes lists with @batch_of, or remove it")


def _wrong_batch(cls: type, of: str, name: str, names: list[str]) -> str:
    """Return why the method *name* cannot answer calls of *of* together; "" if it can."""
    if of not in names:
        return f"there is no such method ({_nearest(of, names)})"
    for method in (of, name):
        if kind_of(getattr(cls, method)) in GENERATORS:
            return f"{method!r} is a generator: streams are not answered together"
    parameters = parameters_of(cls, of)
    if not parameters:
        return f"{of!r} takes no arguments of which there could be a list"
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        return f"{of!r} takes any number of arguments: name its parameters"
    try:
        inspect.Signature(parameters_of(cls, name)).bind(*[None] * len(parameters))
    except TypeError:
        words = "a list" if len(parameters) == 1 else f"{len(parameters)} lists"
        return f"it must take {words}, one for each parameter of {of!r}"
    return ""


def parameters_of(cls: type, name: str) -> tuple[inspect.Parameter, ...] | None:
    """Return the parameters of a method in order, without the instance; None if its signature cannot be read."""
    try:
        parameters = tuple(inspect.signature(getattr(cls, name)).parameters.values())
    except (TypeError, ValueError):
        return None
    found = inspect.getattr_static(cls, name)
    # Only plain functions list the instance as a parameter; callable objects, static and class methods do not.
    if not parameters or not hasattr(type(found), "__get__") or isinstance(found, (staticmethod, classmethod)):
        return parameters
    takes_instance = parameters[0].kind in {parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD}
    return parameters[1:] if takes_instance else parameters
