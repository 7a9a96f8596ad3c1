"""Statistics of scores: intervals, tests, and distances between sets of features."""
