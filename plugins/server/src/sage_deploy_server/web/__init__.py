"""
What every request has in common: `access` lets it in, `bodies` reads it, `problems` says what is wrong with it.

`logins` are the browsers that `access` lets in, `pages` what they get that is not let in.

Imports the errors of the core.
"""
