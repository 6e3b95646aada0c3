"""Block-sparse convolution on CUDA and tensor cores."""
