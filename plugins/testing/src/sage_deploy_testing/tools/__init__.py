"""
Helpers for any test: a leak guard for pytest, checkpoints between threads, re-entry of functions.

Imports the core.
"""
