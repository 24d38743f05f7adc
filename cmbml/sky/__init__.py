"""Physics as pure functions on arrays."""
