"""Search the documentation of the installed standard library: four plain classes, deployed by a YAML file."""
