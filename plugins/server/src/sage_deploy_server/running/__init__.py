"""
The running server: `app` is the application, `serving` runs it in a thread, `extension` starts it for an environment.

`places` manages sockets, `addresses` parses addresses. Imports everything except `commands`.
"""
