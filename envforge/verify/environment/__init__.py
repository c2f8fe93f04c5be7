"""The second question: the prefix against its lock, and what really is mapped after ``import torch``."""
