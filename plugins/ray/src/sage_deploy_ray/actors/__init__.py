"""
Replicas as Ray actors: the link's transport over actor tasks, and Ray's objects in arguments.

`replica_actor` runs in the replica's process, `transport` and `attached` lead to it, `wire` has the bytes in between,
`references` and `arguments` know objects in Ray's store. Modules here import `cluster`, the library and the core's
public modules.
"""
