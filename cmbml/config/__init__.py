"""What may be asked for: the schema of the configuration, its checks and resolvers."""
