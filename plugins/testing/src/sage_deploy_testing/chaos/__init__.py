"""
Real services under load and accidents, and a checker that finds in the history what went wrong.

`run` deploys services, calls them (`load`), makes accidents happen (`nemesis`, `actions`), and returns the history.
`probe` is the class that serves. `run_log` is the file in which it notes each call that it runs. `checker` finds
violations in a history, and `verdict` describes them. Both depend only on the history.
"""
