"""
The commands of `sage-deploy`: each module has a click command named `command`, imported when it is used.

Imports all other modules of this distribution, the public parts of `sage_plugins`, and `sage_deploy_files`.
"""
