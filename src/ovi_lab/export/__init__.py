"""Export of a run's weights in the layouts of other programs."""
