"""Measurement and comparison of cleaning."""
