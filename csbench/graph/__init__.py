"""A network as a list of fused convolutions, which every backend receives alike."""
