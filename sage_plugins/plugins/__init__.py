"""
How plugins are found and asked: discovery of the installed distributions, the hook calls, and the registry of IDs.

Imports the root modules and `interfaces`.
"""
