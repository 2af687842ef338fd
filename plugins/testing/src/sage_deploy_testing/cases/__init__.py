"""
The cases of the target and strategy suites, by subject. Add new cases of the contract here.

Imports the bases and probes in `suites`, `doubles`, `tools` and the core.
"""
