"""A run's weights in the layouts of other programs."""
