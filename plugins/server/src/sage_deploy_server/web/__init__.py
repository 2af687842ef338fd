"""
Common parts of all requests: `access` checks permission, `bodies` reads the body, `problems` reports errors.

`logins` holds the browser sessions that `access` accepts. `pages` answers browsers that it refuses.

Imports the errors of the core.
"""
