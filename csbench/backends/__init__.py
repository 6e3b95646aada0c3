"""Ways to execute a fused convolution, one file per backend."""
