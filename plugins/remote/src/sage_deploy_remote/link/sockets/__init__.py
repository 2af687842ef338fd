"""
Frames and responses over a socket, which carries them as soon as there is something to say.

`messages` is what is on the wire, `stream` one end of a connection. `channel` is the caller's side of one connection,
`transport` the base of transports that have one; the replica's side is `serving.pushing`. Modules here import other
modules of the link and the core's public modules.
"""
