"""
Builds the JSON Schema of deployment files, for the installed plugins.

`document` has the file's structure. `fields` has the schema of each configuration field. `options` has the schemas of
plugins' options classes; `validators` adds their validators' rules. `values` has what they share.
"""
