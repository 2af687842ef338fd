"""
How calls get from a caller's process to a replica's process and back, whatever carries the bytes.

`replica.RemoteReplica` is the caller's side and `serving` has the replica's side; they exchange the frames and
responses of `protocol`. Between them is a `transport.Transport`: that is what a new substrate implements, with the
threads of `dispatcher` if it likes. `rpc_transport` is a base for those that can call a method in another process.
Modules here import `payloads` and the core's public modules, and no substrate.
"""
