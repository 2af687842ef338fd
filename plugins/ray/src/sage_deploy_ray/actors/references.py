"""
Finds Ray's objects in what is sent: references to objects in its store, and handles of actors.

An ordinary pickle of a reference does not name the value's owner, so the reference is useless in another process. Ray
adds the owner, and keeps the value alive, only for references in what it pickles itself. So references travel next to
the pickle, and Ray carries them.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from ray import ObjectRef, cloudpickle

from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["RAY", "Reference"]

#: An `ObjectRef`. Ray's stub makes it generic.
Reference: TypeAlias = "ObjectRef[Any]"

#: Packs everything that travels through Ray. Ray adds reducers to its pickler when it connects.
RAY: Final = Substrate((ObjectRef,), cloudpickle.CloudPickler.dispatch_table)
