"""
Test doubles that a test controls: a clock, replicas and candidates.

Imports the core.
"""
