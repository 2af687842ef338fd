"""
The library for targets whose replicas run in other processes.

`link` carries calls between a caller and a replica's process. `payloads` turns values into bytes. `shipping` sends the
spec of a replica to its process. `placement` chooses its node. `reach` lets other processes find and call the service,
and `driver` lets them call services of the deploying process. `rpc` calls methods in other processes. These packages
import the core's public modules and no other plugin, and no substrate such as Ray.

As a plugin, this module registers nothing. Its entry point says that the package is installed wherever replicas run, so
it is never shipped as the user's own code.
"""
