"""Tests of the repository itself: workflows, hooks, the action, and metadata."""
