"""
Pages for browsers: `login` logs a browser in, `files` serves the pages and the files that they load.

Imports `web`.
"""
