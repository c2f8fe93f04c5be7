"""Verify that a machine can train, by three questions: the machine, the environment, and training.

``observe`` (``machine``, ``environment``, ``training``) → ``Record`` → ``judge``, without I/O → ``Report`` →
``reports`` (terminal, JSON, JUnit, Markdown, HTML) and ``compare``.
"""
