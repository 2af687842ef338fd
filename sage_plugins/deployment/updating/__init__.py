"""
Applies a changed configuration to a running service.

`ways` decides how each change is applied; `rolling` replaces replicas a few at a time.
"""
