"""Calls in both styles of SAGE: `call_service["kv"].get("k")` and `call_service("kv", "k", method="get")`."""

from __future__ import annotations

from sage_plugins.service.callers import AsyncServiceCaller, AsyncServiceMethods, ServiceCaller, ServiceMethods

__all__ = ["AsyncServiceCaller", "AsyncServiceMethods", "ServiceCaller", "ServiceMethods"]
