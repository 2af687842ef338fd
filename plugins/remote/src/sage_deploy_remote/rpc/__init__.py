"""
Calls of methods in another process of this machine, over a socket.

`client` calls and `server` answers; they meet at an `address`, or at the two ends of a pipe. A target can build its
`link.rpc_transport.RpcTransport` and its `reach.rpc_directory.RpcDirectory` on them. Modules here import each other,
`payloads` and the core's public modules.
"""
