"""Export of a run's weights in the layouts of other programs."""

TARGETS = ("ovi", "comfyui")
"""Names of the layouts."""
