"""The sources of images. Imports no torch."""
