"""The kinds of events are a closed list: each of them is emitted somewhere, and no others."""

from __future__ import annotations

import ast
from pathlib import Path

import sage_plugins.deployment
import sage_plugins.routing.guarding
from sage_plugins.event_kinds import EventKind
from sage_plugins.values import ReplicaState

#: States that a target or a monitor reports; each gives an event of its own.
REPORTED = {
    ReplicaState.STARTING,
    ReplicaState.READY,
    ReplicaState.UNREADY,
    ReplicaState.UNHEALTHY,
    ReplicaState.FAILED,
}


def kinds_told():
    """Yield the kind in each `tell(...)` and in each report (kind, reason, replica's ID)."""
    for path in Path(sage_plugins.deployment.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first = None
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"tell", "_tell"} and node.args:
                first = node.args[0]
            elif isinstance(node, ast.Tuple) and len(node.elts) == 3 and getattr(node.elts[2], "attr", "") == "id":
                first = node.elts[0]
            if isinstance(first, ast.Constant):
                yield first.value
            elif isinstance(first, ast.JoinedStr):
                yield from (f"replica_{state}" for state in REPORTED)


def kinds_of_guards():
    """Yield each kind that a guard names."""
    for path in Path(sage_plugins.routing.guarding.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "EventKind":
                yield EventKind[node.attr]


def test_engine_tells_the_documented_kinds_and_no_other():
    """The core emits exactly the documented kinds. Only `CHANGE_REQUESTED` is emitted elsewhere."""
    assert {*kinds_told(), *kinds_of_guards()} == set(EventKind) - {EventKind.CHANGE_REQUESTED}
