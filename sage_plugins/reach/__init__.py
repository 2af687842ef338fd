"""
How other processes find and call the services that this one has deployed.

Imports `routing` and everything below it.
"""
