"""
Describes deployment files for people and editors: documentation of each field and option, and the JSON Schema.

Imports the core's root modules, `config` and `plugins`.
"""
