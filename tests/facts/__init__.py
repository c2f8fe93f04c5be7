"""Tests of refreshed facts, against recorded pages on a loopback server."""
