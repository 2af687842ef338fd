"""
What every request has in common: `access` lets it in, `bodies` reads it, `problems` says what is wrong with it.

Imports the errors of the core.
"""
