"""Explains what an actor waits for while it has no process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_deploy_remote.placement.decision import in_words, lacking

if TYPE_CHECKING:
    from sage_deploy_remote.placement.nodes import Node, Resources

__all__ = ["state_of", "why_waiting"]

#: Ray's name for the state of an actor whose process runs.
_ALIVE = "ALIVE"


def state_of(actor_id: str) -> str:
    """
    Return the state of an actor, in Ray's words. "" if this version of Ray does not report it.

    Args:
        actor_id: Its ID, in hexadecimal digits.
    """
    try:
        # The public API needs the dashboard.
        from ray._private.state import actors
    except ImportError:
        return ""
    state: str = actors(actor_id=actor_id).get("State", "")
    return state


def why_waiting(state: str, name: str, node: Node | None, need: Resources) -> str:
    """
    Return the reason that completes "the replica is not ready: ...", and what to do. "" if the actor's process runs.

    Args:
        state: The actor's state, in Ray's words.
        name: Its node's name.
        node: That node; None if it is no longer alive.
        need: Resources that the replica reserves there.
    """
    if state in {"", _ALIVE}:
        return ""
    known = f"it has no process yet, Ray calls its actor {state}"
    if node is None:
        return f"{known}: its node {name} is gone. See `ray status`, and deploy again: it will be placed elsewhere"
    lacks = lacking(node, need)
    wants = f"it reserves {in_words(need)} on {name}"
    if lacks:
        return (
            f"{known}: {wants}, which {lacks} (what it has reserved itself counts as taken, if its process is about to "
            "start). End what else runs there, see `ray status -v`, ask for less, or raise `startup_timeout`"
        )
    gpus = "the GPUs are free in sum only, each with too small a share; or " if need.gpu else ""
    return (
        f"{known}, although {wants}, where that is free: {gpus}the process does not start, or takes long. See "
        "`raylet.out` and `python-core-worker-*.log` among Ray's logs on that node, or raise `startup_timeout`"
    )
