"""
What a service class sees: its context, its factory, its methods and their marks, the keys of its calls.

Imports the root modules only.
"""
