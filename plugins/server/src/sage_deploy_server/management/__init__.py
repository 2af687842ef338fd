"""
`/api/v1`: `management` shows an environment and changes it, `actions` remembers the changes, `stream` tells the news.

`described` says in the format of OpenAPI what the routes take.

Imports `web`, and `Operations` of the core.
"""
