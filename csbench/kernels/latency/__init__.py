"""Convolution at small batch: compressed weights on sparse tensor cores, split along K."""
