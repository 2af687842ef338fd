"""
`ServiceDeploymentConfig`: its fields, their types and units, the rules across fields, and what is secret.

Also checks the options of plugins, which follow the same rules. Imports the root modules only.
"""
