"""What `with_options` may be given, and where it has an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import ConfigError
from sage_plugins.resilience.priorities import HIGHEST

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["checked_key", "checked_priority", "checked_timeout", "no_effect"]

#: The longest timeout that is no typing error, as in the configuration: some 30 years.
_LONGEST_S: Final = 1e9


def checked_timeout(timeout: Any) -> float | None:
    """*timeout*, if it is a number of seconds or None; else raises ConfigError."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= _LONGEST_S:
        msg = f"timeout: must be a number of seconds above 0, at most 1e9, or None, got {timeout!r:.50}"
        raise ConfigError(msg)
    return float(timeout)


def checked_key(key: Any, service: str) -> Hashable | None:
    """*key*, if it is hashable; else raises InvalidKeyError."""
    try:
        hash(key)
    except TypeError:
        from sage_plugins.service.call_key import unhashable

        raise unhashable(key, f"service '{service}'", service=service) from None
    found: Hashable | None = key
    return found


def checked_priority(priority: Any) -> int:
    """*priority*, if it is one; else raises ConfigError."""
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > HIGHEST:
        msg = f"priority: must be a whole number from -{HIGHEST:,} to {HIGHEST:,}, got {priority!r:.50}"
        raise ConfigError(msg)
    return priority


def no_effect(service: str, priority: int) -> ConfigError:
    """The error for calls with a *priority* to a service that starts all in the order in which they come."""
    return ConfigError(
        f"priority: {priority} has no effect on service '{service}', whose calls start in the order in which they "
        "were made. Set `overload: priority` for it, or leave the priority out"
    )
