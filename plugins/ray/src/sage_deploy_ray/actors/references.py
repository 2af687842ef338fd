"""
Ray's objects inside what travels: references to objects in its store, and handles of actors.

A reference that is pickled like any object does not say who owns its value, so it leads nowhere in another process. Ray
says so, and keeps the value for whoever gets the reference, where it finds references in what it pickles itself. So
references go beside the pickle, for Ray to carry.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from ray import ObjectRef, cloudpickle

from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["RAY", "Reference"]

#: An `ObjectRef`; Ray's own stub has them generic.
Reference: TypeAlias = "ObjectRef[Any]"

#: For everything that is packed in order to travel through Ray. Ray adds reducers to its pickler when it connects.
RAY: Final = Substrate((ObjectRef,), cloudpickle.CloudPickler.dispatch_table)
