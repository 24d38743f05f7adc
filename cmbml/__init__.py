"""Simulate microwave skies, train networks on them, and measure how well they recover the CMB."""
