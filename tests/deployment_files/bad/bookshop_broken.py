"""A module that fails when it is imported."""

raise RuntimeError("the shelf\nis broken")
