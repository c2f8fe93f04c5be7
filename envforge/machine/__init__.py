"""Describe what this computer, or another one, offers to PyTorch."""
