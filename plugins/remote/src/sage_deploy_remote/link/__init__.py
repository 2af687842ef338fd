"""
Carries calls from a caller's process to a replica's process and back, on any substrate.

`replica.RemoteReplica` is the caller's side, and `serving` is the replica's side; they exchange the frames and
responses of `protocol`. Between them is a `transport.Transport`, which each substrate implements; it may use the
threads of `dispatcher`. `rpc_transport` is a base for substrates that can call a method in another process. Modules
here import `payloads` and the core's public modules, and no substrate.
"""
