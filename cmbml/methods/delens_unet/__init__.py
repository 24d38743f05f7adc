"""A network from patches of the observed sky to patches of the delensed one."""
