"""The run directory: all files of a run, read without torch."""
