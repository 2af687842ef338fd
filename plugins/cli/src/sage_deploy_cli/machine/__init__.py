"""
What `doctor` and `plugins check` look at: this machine, this Python, the installed plugins.

Imports the core.
"""
