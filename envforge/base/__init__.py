"""Provide what every layer uses: files, network, records, and text."""
