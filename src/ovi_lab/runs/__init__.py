"""One run from configuration to results, and many of them side by side."""
