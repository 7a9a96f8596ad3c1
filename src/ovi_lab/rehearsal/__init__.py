"""Training and sampling without a GPU: the real code on tensors that have shapes and a device, and no data."""
