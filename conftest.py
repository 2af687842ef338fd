"""What every test of the repository runs under, the plugins' own included."""

import pytest

# Before anything imports from it: a module that is already imported keeps its bare asserts.
pytest.register_assert_rewrite("sage_plugins.testing")

pytest_plugins = ["pytester", "sage_plugins.testing.leak_guard"]
