"""
Decides which replica runs a call and where the call waits: handles, the router with its lanes and queue, method limits.

`docs/design/parts-of-the-router.md` describes the parts.

Imports `call`, `service`, `config`, `interfaces` and the root modules.
"""
