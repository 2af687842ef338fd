"""
The checks that `doctor` and `plugins check` run: on this machine, this Python and the installed plugins.

Imports the core.
"""
