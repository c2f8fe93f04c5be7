"""Contain the programs that run in the Python of an environment, which has no envforge."""
