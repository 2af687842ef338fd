"""
Services whose replicas outlive the process that deployed them, and how the next process takes them over.

`services` knows what runs and what it is made of, `lease` sees to it that one process decides at a time, `transport`
leads to such a replica. Modules here import `actors`, `cluster`, `directory`, the library and the core.
"""
