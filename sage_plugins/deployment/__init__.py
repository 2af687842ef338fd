"""
One deployed service: its replicas, what takes the place of one that ends, its monitors, its status.

`task` puts the parts together. From the lowest to the highest they are `member`, `life`, `replica_set`, `waiting`,
`departure`, `starting`, `supervision`, `changes` and `stopping`.

Imports the wings of a call (`routing`, `call`, `host`), `resilience`, `planning.composition` and everything below.
"""
