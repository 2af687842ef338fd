"""
Starts the replicas of one deployed service, waits for them, replaces them when they die, and stops them.

Imports `deployment.lifecycle`, `deployment.monitors`, `resilience`, `routing` and everything below.
"""
