"""
Frames and responses over a socket, which carries them as soon as there is something to say.

`messages` is what is on the wire, `stream` one end of a connection. `channel` is the caller's side of one connection,
`transport` the base of transports that have one. The replica's side is `serving.pushing`, and `socket_inbox`, whose
workers read. `journal` is what both know even if the replica is killed. Modules here import other modules of the link
and the core's public modules.
"""
