"""What a run writes: settings, checkpoints, weights and the names of their classes."""
