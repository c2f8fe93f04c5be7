"""Tests against the real package servers: ``python -m pytest -m network tests/network``."""
