"""
The commands of `sage-deploy` that work on a running environment, one module each, and `client`, which reaches it. They
know the API alone: nothing of the core, nothing of `web` and `running` but where the sockets are.
"""
