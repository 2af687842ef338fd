"""
The replica's side of the link, in the replica's process.

`calls.CallServer` takes the calls in frames and makes the responses; `server.ReplicaServer` is one with a host.
`outbox` and `pushing` hold the replies for one caller, `report` answers one call, `units` has the units that take
slots, and `late_calls` waits for arguments. `endpoint` offers the server as methods for remote calls. Modules here
import `link.protocol`, `link.sockets`, `payloads`, `shipping` and the core's public modules; nothing of the caller's
side.
"""
