"""Training with sparsity: schemes that train, a probe that times them, data, many ranks."""
