"""
The library for targets whose replicas live in other processes.

`link` carries calls between a caller and a replica's process, `payloads` turns values into bytes, `shipping` sends what
a replica is made of, `placement` decides which node it goes to, and `reach` lets other processes find and call the
service. `driver` lets them call services of the process that deploys. `rpc` calls methods in other processes of
this machine. They import the core's public modules and no other plugin; none imports a substrate such as Ray. As a
plugin this module registers nothing: its entry point says that the package is installed wherever replicas run, so that
it is never shipped as the user's own code.
"""
