"""pyilc, a program of its own, on our maps."""
