"""Results files: their form, where they are found, what in them can be checked, and published numbers."""
