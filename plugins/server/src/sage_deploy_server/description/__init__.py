"""
Descriptions of an environment.

`openapi` describes its API, with the JSON Schemas of `schemas`. `metrics` exports its metrics. Imports `web`,
`calling`, and `Operations` of the core.
"""
