"""Tests of the tools that rebuild generated files."""
