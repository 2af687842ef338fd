"""
The command `sage-deploy`.

`main` is the program, `commands` has one module a command; the rest serves them. It stands above the core and above
`sage_deploy_files`, and nothing imports it. This module imports nothing, so that the help comes without the core.
"""
