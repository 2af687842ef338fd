"""
One deployed service: its replicas, how a dead one is succeeded, its monitors, its status.

Imports the wings of a call (`routing`, `call`, `host`), `resilience`, `planning.composition` and everything below.
"""
