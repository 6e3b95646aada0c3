"""Convolution at large batch: dense and 2:4 weights by Hopper's warpgroup products."""
