"""What every command shares: how it meets its user, and how it composes its configuration."""
