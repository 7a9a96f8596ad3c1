"""Which sync metric to believe: faults of known kind and size planted in clips whose truth is known, and measured."""
