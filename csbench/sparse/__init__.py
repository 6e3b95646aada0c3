"""Sparsity patterns on weights: masks, verification, packed formats, checkpoints."""
