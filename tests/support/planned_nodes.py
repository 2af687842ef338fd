"""A third-party target with nodes for plans, and the settings of a plan."""

from __future__ import annotations

import attrs

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import hookimpl
from sage_plugins.values import Explanation, Placed, Refused, Registration

OURS = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)

FILE = """\
defaults:
  performance: {timeout: 10s}
profiles:
  busy:
    defaults: {queue_size: 5}
    services:
      kv: {options: {pool: {idle_timeout: 7}}}
services:
  kv:
    class: planned:KV
    init: {kwargs: {backend: memory, api_key: "${KV_KEY}"}}
    threading_strategy: pool
    thread_pool_size: ${KV_THREADS:-4}
    user_config: {db: {password: hunter2, size: 3}}
    methods: {get: {timeout: 250ms}}
"""

MODULE = """\
class KV:
    def __init__(self, backend, api_key):
        raise AssertionError("a plan builds nothing")

    def get(self, key):
        return key
"""


@attrs.frozen
class NodeOptions:
    zone: str = "a"


class Nodes:
    """A target with three nodes, of which one has room."""

    def __init__(self, options):
        self.closed = False

    def place(self, specs):
        full = {"node-b": "0 of 4 CPUs are free", "node-c": "has no label zone=a"}
        return [
            Placed("node-a", "the only node with room", full)
            if spec.index == 0
            else Refused("no node has room for it", {"node-a": "one replica a node", **full}, "E806")
            for spec in specs
        ]

    def start(self, spec, at, events, clock):
        raise AssertionError("a plan starts nothing")

    def close(self):
        self.closed = True


class Lying(Nodes):
    """A target whose texts have several lines."""

    def place(self, specs):
        return [Placed("node\nlie", "room\nlie"), Refused("no room", {"other\nlie": "full"})]


class NodesPlugin:
    """A third-party target that explains itself."""

    def __init__(self, explain=None, create=Nodes):
        self.registration = Registration(
            "nodes",
            create,
            "Replicas on my nodes",
            options=NodeOptions,
            explain=explain
            or (
                lambda config, options: [
                    f"only in zone {options.zone}",
                    Explanation("cpu_cores is reserved", "enforced"),
                    Explanation("memory_mb is a hint", "advisory"),
                ]
            ),
        )

    @hookimpl
    def sage_register_targets(self):
        return [self.registration]


def settings(plan, name="kv"):
    (service,) = (each for each in plan.services if each.name == name)
    return {each.key: each for each in service.settings}
