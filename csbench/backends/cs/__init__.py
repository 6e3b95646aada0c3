"""Complementary Sparsity."""
