"""The speaking mouth's metrics: detectors and a trained judge for clips whose syllables are known."""
