"""
Who takes a call and where it waits: the handle, the router with its queue and lanes, limits of methods.

Imports `call`, `service`, `config`, `interfaces` and the root modules.
"""
