"""Numbers of others, kept with their sources."""
