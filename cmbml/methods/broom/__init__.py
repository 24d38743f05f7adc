"""BROOM, a package of its own and of another licence, on our maps."""
