"""Frozen passes, cached, and what feeds batches from them."""
