"""
The cases of the target and strategy suites, by subject; a new case of the contract is added here.

Imports `doubles`, `tools` and the core.
"""
