"""
One module a command: its `command` is a click command, imported when it is asked for.

Imports everything else of this distribution, what `sage_plugins` offers, and `sage_deploy_files`.
"""
