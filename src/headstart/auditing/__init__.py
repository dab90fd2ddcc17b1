"""The audit of a folder of photos, before anything is trained: what is wrong with them, by name."""
