"""What every command stands on: processes, precision, memory, randomness, signals, files, and what is said."""
