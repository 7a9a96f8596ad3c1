"""Scoring a folder of clips: features, their cache, and the results of the metrics."""
