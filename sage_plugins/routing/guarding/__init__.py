"""
What is done about calls that fail, for services that ask for it: the decisions of `resilience`, brought to a router.

Imports `call`, `config`, `resilience` and the root modules, and of its own wing what takes calls out of a backlog.
"""
