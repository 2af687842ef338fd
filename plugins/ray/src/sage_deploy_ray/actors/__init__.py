"""
Replicas as Ray actors, and the transport that calls them.

`replica_actor` runs in the replica's process. `transport` and `attached` connect callers to it. `wire` encodes frames
for Ray. `references` and `arguments` handle objects of Ray's store. Modules here import `cluster`, the remote library
and the core's public modules.
"""
