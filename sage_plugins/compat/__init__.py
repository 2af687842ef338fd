"""
SAGE's names for what this package does: for code that was written for SAGE.

The names are imported when they are first used, and nothing of the core imports this package.
"""

from __future__ import annotations
