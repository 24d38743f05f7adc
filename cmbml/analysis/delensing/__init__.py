"""Measurement and comparison of delensing."""
