"""Render a template into a project, and update it."""
