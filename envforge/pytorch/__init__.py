"""Describe which PyTorch builds exist, and select the one that fits a machine."""
