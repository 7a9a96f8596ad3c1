"""What is recomputed and compared by ovi-eval check, by topic."""
