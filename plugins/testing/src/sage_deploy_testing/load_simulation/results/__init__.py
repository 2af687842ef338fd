"""What has happened in a simulation: it is counted, summed up, and drawn."""
