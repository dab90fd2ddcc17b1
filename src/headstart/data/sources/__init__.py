"""Where images come from. Imports no torch."""
