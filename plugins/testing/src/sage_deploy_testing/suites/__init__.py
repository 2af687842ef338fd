"""
The conformance suites: one class for each kind of plugin, which a plugin's own tests inherit.

Imports `cases`, `doubles`, `tools` and the core.
"""
