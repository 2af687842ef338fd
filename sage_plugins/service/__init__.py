"""
The parts that deal with a user's service class: its context, factory, methods and marks, and the keys of its calls.

This package's `__init__` imports nothing.
"""
