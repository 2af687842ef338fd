"""
The replica's side of a call: the host with the instance and its inbox, the seat for a strategy's workers, execution.

Imports `call`, `service`, `interfaces` and the root modules. Targets build on `host.host.Host`.
"""
