"""Sampling: requests, the pipeline of text encoder, towers and codecs, and the clips they make."""
