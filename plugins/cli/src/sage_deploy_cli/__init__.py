"""
The command `sage-deploy`.

`main` is the program. `commands` has one module for each command. The package imports the core and
`sage_deploy_files`; neither imports it. This module imports nothing, so that `--help` does not load the core.
"""
