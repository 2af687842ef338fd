"""
`/api/v1`: `management` shows an environment and changes it, `actions` remembers the changes, `stream` tells the news.

`rows` has each service at a glance. `described` says in the format of OpenAPI what the routes take.

Imports `web`, `recording`, and `Operations` of the core.
"""
