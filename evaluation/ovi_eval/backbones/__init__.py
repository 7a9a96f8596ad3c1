"""Networks whose features metrics use: architecture, preprocessing and loading of their weights."""
