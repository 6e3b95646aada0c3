"""csbench: benchmarks sparse convolutional networks and writes the paper's tables."""

__version__ = "0.1.0"
