"""Searches texts by meaning: plain classes over real libraries, deployed by a YAML file."""
