"""
The commands of `sage-deploy` for a running environment, and `client`, which connects to it.

They use only the API. They import nothing of the core, and of `running` only the place of the sockets.
"""
