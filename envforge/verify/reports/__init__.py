"""Render a report for terminals, as JSON, JUnit XML, Markdown, and HTML."""
