"""Build the lockfile catalogue from facts, with a loopback PyTorch index and one solve for each lockfile."""
