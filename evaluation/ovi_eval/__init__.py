"""ovi_eval: scores clips of video and sound. Never imports ovi_lab, so that it scores any system's output."""

__version__ = "0.1.0"
