"""
What may stand in a deployment file, for people and editors: documentation of each field and option, JSON Schema.

Imports the core's root modules, `config` and `plugins`.
"""
