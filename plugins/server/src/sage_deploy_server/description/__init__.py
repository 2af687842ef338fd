"""
Descriptions of an environment: `openapi` describes its API, with the JSON Schemas of `schemas`; `metrics` exports
metrics.

Imports `web`, `calling`, and `Operations` of the core.
"""
