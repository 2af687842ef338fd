"""
What a caller holds: the handle, its verbs once the service is known, and methods that look like the service's own.

Imports `call`, `service` and the rest of `routing` only for types.
"""
