"""The plan of a run: all decisions about it, made before anything is computed."""
