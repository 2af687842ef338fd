"""
The JSON Schema of a deployment file, as the installed plugins read it.

`document` has the file's structure, `fields` the schema of each configuration field, `options` that of plugins' option
classes, with what their `validators` ask; `values` has what all of them say alike.
"""
