"""What several test files use: small inputs, networks with generated weights, and processes to start."""
