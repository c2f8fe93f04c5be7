"""Measure training in the project's own interpreter, with no imports except torch and the project.

The only argument is one JSON object. Each result is one marked line of JSON on stdout, flushed at once. The code must
run on Python 3.8 and torch 2.0 and later.
"""
