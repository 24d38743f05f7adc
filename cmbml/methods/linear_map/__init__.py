"""The linear MAP of the lensing potential: the mean of its posterior given E and B, in seconds a sky."""
