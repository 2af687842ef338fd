"""Lists every value of a service's configuration, with its origin and the part that uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.config.origins import Origin
from sage_plugins.config.secrets import HIDDEN, is_secret
from sage_plugins.config.service_config import fields, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Choice, EnvironmentOptions

__all__ = ["Setting", "settings_of"]

#: Hexadecimal digits of a digest: enough to see a change, too few to reveal a secret that cannot be guessed.
_DIGITS: Final = 8

_WORDS: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a mapping",
}


@attrs.frozen
class Setting:
    """
    One value of a service's configuration.

    Attributes:
        key: Its path, such as `"timeout"`, `"methods.get.timeout"`, `"options.pool.idle_timeout"` or
            `"init.kwargs.backend"`; `"environment.ray.address"` for the environment's `options.ray.address`.
        value: The value. A secret is hidden; its own name, or the name of its environment variable, shows that it is
            one. For a constructor's argument, only its type is shown.
        origin: Where it was set.
        acts: The part that uses it: `"core"`, `"service"` (its own class), or a plugin such as `"strategy pool"`.
        digest: Digest of a value that is not shown, to see whether it has changed; "" for a value that is shown.
    """

    key: str
    value: Any
    origin: Origin
    acts: str
    digest: str = ""


def settings_of(composition: Composition, origin: Callable[[str], Origin]) -> Iterator[Setting]:
    """
    Yield every setting of a service: fields in the order of the reference, plugins' options, constructor's arguments.

    Args:
        composition: The service.
        origin: Returns the origin of the value at a path.
    """
    config = composition.config
    actors = {
        "target": f"target {composition.target.id}",
        "strategy": f"strategy {composition.strategy.id}",
        "balancer": "core" if composition.balancer is None else f"balancer {composition.balancer.id}",
        "monitors": " ".join(["monitors", *(choice.id for choice in composition.monitors)]),
    }
    for name, info in fields().items():
        if name == "options":
            continue
        for key, value in _leaves(name, plain(getattr(config, name))):
            yield _shown(key, value, origin(key), actors.get(info.role, info.role))
    yield from _options(composition, origin)
    yield from _arguments(composition.factory, origin)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the value at *key* with its path; for mappings, and lists that contain mappings or lists, each leaf."""
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from _leaves(f"{key}.{name}", child)
    elif isinstance(value, list) and any(isinstance(child, (dict, list)) for child in value):
        for index, child in enumerate(value):
            yield from _leaves(f"{key}.{index}", child)
    else:
        yield key, value


def _options(composition: Composition, origin: Callable[[str], Origin]) -> Iterator[Setting]:
    kinds = {
        "target": composition.target,
        "strategy": composition.strategy,
        "balancer": composition.balancer,
        "autoscaler": composition.autoscaler,
    }
    chosen = [(f"{kind} {choice.id}", choice) for kind, choice in kinds.items() if choice is not None]
    chosen += [(f"monitor {choice.id}", choice) for choice in composition.monitors]
    for actor, choice in chosen:
        if choice.options is not None:
            for key, value in _leaves(f"options.{choice.id}", attrs.asdict(choice.options)):
                yield _shown(key, value, origin(key), actor)
    read = {declared.id: (actor, choice) for actor, choice in reversed(chosen) if (declared := _shared(choice))}
    for id, (actor, choice) in read.items():
        for key, value in _leaves(f"environment.{id}", attrs.asdict(choice.environment)):
            yield _shown(key, value, origin(key), actor)


def _shared(choice: Choice) -> EnvironmentOptions | None:
    return choice.registration.environment_options


def _arguments(factory: Any, origin: Callable[[str], Origin]) -> Iterator[Setting]:
    # Other factories than `ServiceFactory` may not have these attributes.
    given = [(f"init.args.{index}", value) for index, value in enumerate(getattr(factory, "service_args", ()))]
    given += [(f"init.kwargs.{name}", value) for name, value in dict(getattr(factory, "service_kwargs", {})).items()]
    for key, value in given:
        words = HIDDEN if is_secret(key) else _WORDS.get(type(value), f"an object of class {type(value).__name__}")
        yield Setting(key, words, origin(key), "service", _digest(value))


def _shown(key: str, value: Any, origin: Origin, acts: str) -> Setting:
    secret = is_secret(key) or any(map(is_secret, origin.variables))
    if secret and value is not None and not isinstance(value, bool):
        return Setting(key, HIDDEN, origin, acts, _digest(value))
    return Setting(key, plain(value), origin, acts)


def _digest(value: Any) -> str:
    """
    Return a digest of the value.

    Equal values that a file can have get the same digest in every process. Other values are told apart by identity.
    """

    def identity(found: Any) -> Any:
        return dict(found) if isinstance(found, Mapping) else f"{type(found).__qualname__} {id(found):x}"

    try:
        text = json.dumps(value, sort_keys=True, default=identity)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not allow, or a value that contains itself
        text = f"{type(value).__qualname__} {id(value):x}"
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:_DIGITS]
