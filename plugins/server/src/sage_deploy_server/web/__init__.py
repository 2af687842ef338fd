"""
The ASGI application: requests in, answers out.

`access` lets requests in, `calls` answers those that call a service, `management` those that look at an environment or
change it, with what `actions` remembers. `metrics` and `openapi` describe it, by what `schemas` makes. `bodies` and
`shapes` make arguments of JSON and JSON of results, `problems` says what clients are told of errors, and `app` puts it
together. Imports `Operations`, errors and values of the core.
"""
