"""
Stand-ins under a test's control: a clock, replicas, candidates.

Imports the core.
"""
