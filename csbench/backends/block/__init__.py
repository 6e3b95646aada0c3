"""Block-sparse convolution."""
