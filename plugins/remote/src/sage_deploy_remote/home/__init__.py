"""
Services whose replicas are in the process that deploys, called from other processes: their calls come back to it.

`publishing` has them found in a directory, `door` lets callers in, `server` hands their calls to the service's router,
and `transport` is the callers' end, which connects to an `address`. Modules here import `reach`, `link`, `rpc` and the
core's routing; `reach` imports them where such a service is published or called.
"""
