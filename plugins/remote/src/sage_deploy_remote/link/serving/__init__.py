"""
The replica's side of the link, in the replica's own process.

`calls.CallServer` admits what frames bring, and says what responses tell; `server.ReplicaServer` is one with a host.
`outbox` has what one caller is to be told, `report` answers one call, `units` are what takes one slot, `late_calls`
wait for their arguments. `endpoint` is the server as remote calls of methods. Modules here import `link.protocol`,
`payloads`, `shipping` and the core's public modules; nothing of the caller's side.
"""
