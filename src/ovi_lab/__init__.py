"""ovi-lab: train, ablate and sample Ovi, the twin diffusion transformer for video with sound."""

__version__ = "0.1.0"
