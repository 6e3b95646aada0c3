"""Kernel sources and the code that compiles them."""
