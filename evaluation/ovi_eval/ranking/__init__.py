"""Results of several runs ranked and compared: tables, leaderboards, claims."""
