"""Checks of a data set: faults, oddities, duplicates. Imports no torch."""
