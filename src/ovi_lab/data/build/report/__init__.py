"""`ovi-data report`: what a build has kept, what it has dropped and why, as one HTML page."""
