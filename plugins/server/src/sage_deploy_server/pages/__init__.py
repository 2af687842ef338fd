"""
What browsers show: `login` lets one in, `files` are the pages and what they load.

Imports `web`.
"""
