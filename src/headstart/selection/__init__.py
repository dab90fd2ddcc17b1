"""The choice of the candidates that get a full run, by cheap evidence."""
