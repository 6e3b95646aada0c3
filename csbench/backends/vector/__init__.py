"""Backends of weights whose output channels share columns: `ovw`, `shfl-bw`, `block-vectors`."""
