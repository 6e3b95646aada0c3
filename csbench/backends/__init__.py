"""Ways to execute a fused convolution, a folder for each family of weights."""
