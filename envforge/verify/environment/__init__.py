"""Answer the second question: the environment compared with its lockfile, and what ``import torch`` loads."""
