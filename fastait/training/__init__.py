"""What makes a step fast and a run survive."""
