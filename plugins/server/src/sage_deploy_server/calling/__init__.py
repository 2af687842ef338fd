"""
Calls over HTTP: `calls` turns requests into calls, `signatures` converts arguments from JSON and results to JSON.

Imports `web`, and `Operations` of the core.
"""
