"""Predictions of other programs, from their files."""
