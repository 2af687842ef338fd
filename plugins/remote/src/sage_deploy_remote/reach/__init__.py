"""
How other processes find and call the services that this one has deployed.

`publishing` tells a `directory` what runs, as `listing` has it. In other processes a `finder` gives handles to it,
and a `client` makes the calls. `snapshot` is what an earlier process has left. `target` has all this ready-made for a
target that brings a directory. `rpc_directory` is a base for one whose `directory_server` is called remotely, and
`driver_directory` has that server in the process that deploys. Modules here import `link`, `payloads`, `rpc`, `driver`
for services that are in that process, and the core's routing too: a client is the calling side of a service.
"""
