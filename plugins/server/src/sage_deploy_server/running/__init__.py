"""
The running server: `app` is the application, `serving` runs it in a thread, `extension` starts it for an environment.

`environment_files` manages sockets and tokens, `addresses` parses addresses. Imports everything except `commands`.
"""
