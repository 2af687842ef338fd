"""
Where the application is reached: `serving` runs it in a thread, and `extension` does so for an environment.

An environment asks for that by its options. `places` and `addresses` say at which socket and address. Imports `web`.
"""
