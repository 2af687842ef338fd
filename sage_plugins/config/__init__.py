"""
`ServiceDeploymentConfig`: its fields, their types and units, the rules across fields, and the masking of secrets.

The options of plugins are checked here too, by the same rules.
"""
