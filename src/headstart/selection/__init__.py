"""Which candidates are worth their full runs, from cheap evidence."""
