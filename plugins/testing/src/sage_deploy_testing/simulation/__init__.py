"""
A router with replicas, callers and accidents in virtual time, all from one seed, and the rules that it checks.

Imports `doubles`, `tools` and the core.
"""
