"""The linear MAP of the lensing potential: near-optimal, in seconds a sky."""
