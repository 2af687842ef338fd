"""The output of a simulation: counts, the report, and charts."""
