"""
The replicas of one deployed service: started, waited for, succeeded when they die, and let go.

Only `supervision` gives a replica into other care. Imports `deployment.life`, `deployment.monitors`, `resilience`,
`routing` and everything below.
"""
