"""
Many services: registered, deployed, changed and closed together.

The top of the core: it imports every other wing but `compat`.
"""
