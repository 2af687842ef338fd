"""
What an environment measured in the last 24 hours: `recorder` looks, `history` keeps it in `rings`.

`sample` takes from metric families what is kept. Imports `Operations` of the core.
"""
