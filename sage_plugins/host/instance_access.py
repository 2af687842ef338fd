"""What is asked of a service's instance itself, beside its calls: its attributes, as SAGE's tasks give them."""

from __future__ import annotations

from typing import Any

from sage_plugins.interfaces import ControlOp
from sage_plugins.service.factory import hook

__all__ = ["access"]


def access(op: ControlOp, arg: Any, instance: Any, replica: str) -> Any:
    """
    Get or set an attribute of *instance*, or have it terminate, in the calling thread.

    Args:
        op: `GET`, `SET` or `TERMINATE`.
        arg: As `ControlOp` says.
        instance: The instance; None before it is built and after its end.
        replica: ID of its replica, for messages.

    Raises:
        AttributeError: There is no such attribute, or it is private.
        RuntimeError: There is no instance.
        BaseException: What `terminate()`, a property or a setter raises.
    """
    if instance is None:
        msg = f"{replica} has no instance: it is being built, or has ended"
        raise RuntimeError(msg)
    if op is ControlOp.TERMINATE:
        for coroutine in hook(instance, "terminate"):
            import asyncio

            asyncio.run(coroutine)
        return None
    name, value = (arg, None) if op is ControlOp.GET else arg
    if not isinstance(name, str) or name.startswith("_"):
        msg = f"attribute {name!r} of {replica} is private: names with an underscore are not given out"
        raise AttributeError(msg)
    if op is ControlOp.SET:
        setattr(instance, name, value)
        return None
    return getattr(instance, name)
