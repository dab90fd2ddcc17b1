"""The machine: device, memory, processes, progress."""
