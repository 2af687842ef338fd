"""
Handles: the objects through which callers call a service, and the service's methods as attributes of them.

Imports `call` and `service`; the rest of `routing` only for types.
"""
