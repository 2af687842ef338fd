"""
Lets other processes find and call the services that this one has deployed.

`publishing` writes `listing`s of services into a `directory`. In other processes, a `finder` gives handles, and a
`client` makes the calls. `snapshot` describes what an earlier process left running. `target` is a base for targets that
have a directory. `rpc_directory` is a base for directories whose `directory_server` is called remotely;
`driver_directory` runs that server in the deploying process. Modules here import `link`, `payloads`, `rpc`, `driver`
for services in the deploying process, and the core's routing: a client is the calling side of a service.
"""
