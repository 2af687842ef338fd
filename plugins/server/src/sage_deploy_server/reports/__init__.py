"""The dashboard as one file: what the API answered once, and the pages that show it, without a server."""
