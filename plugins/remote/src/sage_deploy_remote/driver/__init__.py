"""
Lets replicas in other processes call services whose replicas run in the driver, the process that deploys.

`publishing` lists such a service in a directory, `listener` accepts callers, `server` passes their calls to the
service's router, and `transport` is the callers' end, which connects to an `address`. Modules here import `reach`,
`link`, `rpc` and the core's routing. `reach` imports them when such a service is published or called.
"""
