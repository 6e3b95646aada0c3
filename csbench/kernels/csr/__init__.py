"""Convolutions whose kept weights may lie anywhere, on CUDA cores."""
