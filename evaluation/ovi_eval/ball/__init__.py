"""The ball world's own metrics: detectors and trained judges for clips whose truth is known."""
