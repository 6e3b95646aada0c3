"""Weights kept anywhere."""
