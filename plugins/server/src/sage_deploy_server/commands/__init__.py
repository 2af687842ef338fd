"""
The commands of `sage-deploy` that work on a running environment, and `client`, which reaches it.

They know the API alone: nothing of the core, and of `running` only where the sockets are.
"""
