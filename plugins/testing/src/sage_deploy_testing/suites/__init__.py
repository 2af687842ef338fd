"""
The conformance suites: one class for each kind of plugin. A plugin's own tests inherit it.

Imports `cases`, `doubles`, `tools` and the core.
"""
