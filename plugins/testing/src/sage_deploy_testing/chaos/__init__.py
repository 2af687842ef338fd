"""
Real services under load and accidents, and a checker that says from the history what went wrong.

`run` deploys services, calls them (`load`), has accidents happen (`nemesis`, `actions`) and gives the history of it.
`probe` is the class that serves, `run_log` the file in which it notes each call that it runs. `checker` finds
violations in a history and `verdict` puts them into words: both are functions of the history alone.
"""
