"""Numbers, names, durations and results as text."""
