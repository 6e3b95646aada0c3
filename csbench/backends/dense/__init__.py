"""Dense convolutions, the baselines: by libraries, by compilers, and sparse weights run dense."""
