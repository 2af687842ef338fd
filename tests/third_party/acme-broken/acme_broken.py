"""Would offer the threading strategy `turbo`, if what it needs were there."""

import acme_turbine_drivers  # type: ignore[import-not-found]  # noqa: F401 - nobody has it: that is the point
