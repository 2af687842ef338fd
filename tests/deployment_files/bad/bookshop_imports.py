"""A module that needs one that is not installed."""

import bookshop_catalogue  # noqa: F401 - it is not there: that is the point
