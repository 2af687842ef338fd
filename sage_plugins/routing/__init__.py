"""
Who takes a call and where it waits: the handle, the router with its lanes and queue, limits of methods.

`docs/design/parts-of-the-router.md` says which part does what.

Imports `call`, `service`, `config`, `interfaces` and the root modules.
"""
