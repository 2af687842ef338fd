"""Checks the arguments of `ServiceHandle.with_options`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import ConfigError
from sage_plugins.resilience.priorities import HIGHEST

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["checked_key", "checked_priority", "checked_timeout", "no_effect"]

#: The longest accepted timeout, as in the configuration: about 30 years. A longer one is a typing error.
_LONGEST_S: Final = 1e9


def checked_timeout(timeout: Any) -> float | None:
    """Return *timeout* if it is a number of seconds or None; else raise ConfigError."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= _LONGEST_S:
        msg = f"timeout: must be a number of seconds above 0, at most 1e9, or None, got {timeout!r:.50}"
        raise ConfigError(msg)
    return float(timeout)


def checked_key(key: Any, service: str) -> Hashable | None:
    """Return *key* if it is hashable; else raise InvalidKeyError."""
    try:
        hash(key)
    except TypeError:
        from sage_plugins.service.call_key import unhashable

        raise unhashable(key, f"service '{service}'", service=service) from None
    found: Hashable | None = key
    return found


def checked_priority(priority: Any) -> int:
    """Return *priority* if it is a whole number in its range; else raise ConfigError."""
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > HIGHEST:
        msg = f"priority: must be a whole number from -{HIGHEST:,} to {HIGHEST:,}, got {priority!r:.50}"
        raise ConfigError(msg)
    return priority


def no_effect(service: str, priority: int) -> ConfigError:
    """Return the error for a *priority* given for a service that starts calls in the order in which they were made."""
    return ConfigError(
        f"priority: {priority} has no effect on service '{service}', whose calls start in the order in which they "
        "were made. Set `overload: priority` for it, or leave the priority out"
    )
