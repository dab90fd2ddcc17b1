"""Numbers, names and results as text."""
