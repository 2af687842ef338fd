"""
Applies a changed configuration to a running service.

`update_plan` decides how each change is applied; `rolling` replaces replicas a few at a time.
"""
