"""
The replica's side: the instance, its inbox, the seat from which a strategy's workers pull, the execution of a call.

Imports `call`, `service`, `interfaces` and the root modules. Targets build on `host.host.Host`.
"""
