"""
Retries, hedging, circuit breaker, ejection and killing: applies the decisions of `resilience` to a router's calls.

Imports `call`, `config`, `resilience` and the root modules; of `routing`, only `lane` and `prefetch`.
"""
