"""Timed runs: clocks, sampling, checks, workers."""
