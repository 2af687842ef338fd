"""The recorders of monitors: how they are made, and how one that fails is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.errors import PluginError, text_of

if TYPE_CHECKING:
    from sage_plugins.interfaces import Recorder, RecorderFactory
    from sage_plugins.values import Choice, ReplicaInfo

__all__ = ["make_recorder"]


def make_recorder(
    choice: Choice, factory: RecorderFactory, who: ReplicaInfo, methods: tuple[str, ...]
) -> Recorder | None:
    """
    The recorder that *factory* makes, which *choice* has created; None if the monitor counts no calls.

    Raises:
        PluginError: The recorder cannot be made; the message names the monitor.
    """
    try:
        return factory.recorder(who, methods)
    except Exception as error:
        whom = f"the calling side of service '{who.service}'" if who.replica is None else f"replica {who.replica}"
        msg = f"monitor '{choice.id}' from {choice.source} cannot make the recorder for {whom}: {text_of(error)}"
        raise PluginError(msg) from error
