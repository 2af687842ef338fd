"""Search texts by what they mean: three plain classes over real libraries, deployed by a YAML file."""
