"""Files of tensors, read as tensors and plain data only, and written atomically."""
