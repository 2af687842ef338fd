"""
Sends the spec of a replica, and the code that it needs, to the replica's process.

`specs` packs a replica's spec, `modules` adds the caller's own modules as source text, and `versions` has the protocol
version of a process. Modules here import `payloads` and the core's public modules.
"""
