"""The input of a simulation: durations of methods, loads and faults, and their spelling on the command line."""
