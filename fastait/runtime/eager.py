"""What is compiled runs as it was written, for a while."""

import torch

from fastait.runtime.shared import by_all_threads

eagerly = by_all_threads(lambda: torch.compiler.set_stance("force_eager"))
"""A context in which nothing is compiled, and what has been runs eagerly, in other threads too until the last one has
left."""
