"""What a run leaves: its folder and checkpoint format, weights, and the names of their classes."""
