"""Networks that metrics look through: their architecture and how their weights are loaded."""
