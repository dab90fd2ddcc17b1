"""Features: the cached frozen passes, and the feeds that make batches from them."""
