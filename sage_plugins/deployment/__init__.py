"""
Runs one deployed service: its replicas and their replacement, its monitors and its status.

`task` puts the parts together. From lowest to highest they are `member`, `lifecycle`, `replica_set`, `waiting`,
`stopper`, `starting`, `supervision`, `changes` and `stopping`.

Imports `routing`, `call`, `host`, `resilience`, `planning.composition` and everything below.
"""
