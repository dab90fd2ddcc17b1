"""What knows the machine: device, memory, processes, progress."""
