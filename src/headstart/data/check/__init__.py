"""What may be wrong with a data set. Imports no torch."""
