"""
How a changed configuration reaches a service that runs.

`ways` says which changes go which way, `rolling` replaces replicas one by one.
"""
