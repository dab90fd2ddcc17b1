"""Pixels to network input."""
