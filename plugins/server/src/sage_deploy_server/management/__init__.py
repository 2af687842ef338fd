"""
`/api/v1`: `management` shows an environment and changes it, `actions` remembers the changes, `stream` tells the news.

Imports `web`, and `Operations` of the core.
"""
