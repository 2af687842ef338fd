"""
The replicas of one deployed service: starts them, waits for them, replaces them when they die, and stops them.

Imports `deployment.life`, `deployment.monitors`, `resilience`, `routing` and everything below.
"""
