"""Backends of weights whose output channels share columns: `ovw` and `shfl-bw`."""
