"""
Calls over HTTP: `calls` answers requests with calls of services, `shapes` makes arguments of JSON and JSON of results.

Imports `web`, and `Operations` of the core.
"""
