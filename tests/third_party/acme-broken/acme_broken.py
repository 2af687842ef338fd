"""Would offer the threading strategy `turbo`, but cannot be imported: a package that it needs does not exist."""

import acme_turbine_drivers  # type: ignore[import-not-found]  # noqa: F401 - does not exist: that is the point
