"""
`/api/v1`: `management` shows and changes an environment, `actions` remembers changes, `stream` sends updates.

`rows` shows each service in one row. `openapi_operations` describes the routes for OpenAPI.

Imports `web`, `recording`, and `Operations` of the core.
"""
