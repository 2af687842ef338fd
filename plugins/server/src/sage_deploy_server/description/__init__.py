"""
What others read of an environment: `openapi` how it is called, by the JSON Schemas of `schemas`; `metrics` its counts.

Imports `web`, `calling`, and `Operations` of the core.
"""
