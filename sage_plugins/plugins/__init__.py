"""
Finds the installed plugins, calls their hooks, and registers the IDs that they offer.

Imports only the root modules.
"""
