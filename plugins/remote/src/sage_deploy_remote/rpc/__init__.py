"""
Calls methods in another process, over a socket.

`client` calls and `server` answers. They meet at an `address`, or at the two ends of a pipe. Connections between
machines may use `tls`, with the files that `certificates` names. A target can build its
`link.rpc_transport.RpcTransport` and its `reach.rpc_directory.RpcDirectory` on this package. Modules here import each
other, `payloads` and the core's public modules.
"""
