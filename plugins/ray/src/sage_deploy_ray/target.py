"""Replicas in Ray actors, each on the node where placement has put it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sage_deploy_ray.actor import EXCHANGES, ReplicaActor
from sage_deploy_ray.remote_replica import RemoteReplica
from sage_deploy_ray.transport import Couriers, RayTransport
