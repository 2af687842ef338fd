"""
Services whose replicas outlive the process that deployed them, and their takeover by a later process.

`services` finds out which services run. `lease` ensures that only one process manages them at a time. `transport`
connects to such a replica. Modules here import `actors`, `cluster`, `directory`, the library and the core.
"""
