"""
Metrics of an environment in the last 24 hours: `recorder` reads them, `history` keeps them in `rings`.

`sample` takes the recorded values from metric families. Imports `Operations` of the core.
"""
