"""
Where the application is reached: `serving` runs it in a thread, `extension` does so for an environment whose options ask
for it, `places` and `addresses` say at which socket and address. Imports `web`.
"""
