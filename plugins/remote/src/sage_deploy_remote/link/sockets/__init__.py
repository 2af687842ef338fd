"""
Carries frames and responses over a socket. Each side sends as soon as it has something to say.

`messages` is the wire format, and `message_socket` is one end of a connection. `connection_reader` is the caller's side
of a connection, and `transport` is the base of transports that have one. The replica's side is `serving.pushing` and
`socket_inbox`, whose workers read connections. `journal` is shared memory that survives a killed replica. `inheritance`
closes connections in forked copies of the process. Modules here import other modules of `link` and the core's public
modules. See docs/design/calls-over-a-socket.md.
"""
