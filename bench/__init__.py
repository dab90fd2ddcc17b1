"""Each number that README and docs quote, measured."""
