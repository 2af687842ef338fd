"""
The server as it runs: `app` is the application, `serving` runs it in a thread, `extension` does so for an environment.

`places` and `addresses` say at which socket and address. Imports all but `commands`.
"""
