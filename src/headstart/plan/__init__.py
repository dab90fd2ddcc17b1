"""What a recipe means on a machine, before anything runs."""
