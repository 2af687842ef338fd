"""
Environments, which register, deploy, change and close many services together.

This is the top of the core: it imports every other package except `compat`.
"""
