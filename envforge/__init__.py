"""Create, lock, install, and verify PyTorch environments and mixed-precision projects."""

__version__ = "0.1.0"
